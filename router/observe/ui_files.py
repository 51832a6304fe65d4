"""The live page's files, and the head of what the page is sent. They need no build step and nothing from elsewhere."""

from pathlib import Path

from dualmap.router.http.local_answers import ok_response

FOLDER = Path(__file__).parent / "ui"
NAMES = (
    "page.html",
    "page.css",
    "icon.svg",
    "page.js",
    "elements.js",
    "numbers.js",
    "rings.js",
    "prefixes.js",
    "instances.js",
    "timelines.js",
    "events.js",
    "lists.js",
)
UI_PATHS = {"/ui": "page.html"} | {f"/ui/{name}": name for name in NAMES}
CONTENT_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
NOT_KEPT = b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n"
GUARDED = NOT_KEPT + (
    b"content-security-policy: default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    b"referrer-policy: no-referrer\r\n"
)


def ui_response(path: str, *, close: bool) -> bytes:
    """path: of UI_PATHS. Read from the disk each time: a page is opened a few times a day, and its files are small."""
    file = FOLDER / UI_PATHS[path]
    return ok_response(file.read_bytes(), CONTENT_TYPES[file.suffix], close=close, fields=GUARDED)


def live_response(body: bytes, *, close: bool) -> bytes:
    """JSON, which nobody may keep."""
    return ok_response(body, b"application/json", close=close, fields=NOT_KEPT)
