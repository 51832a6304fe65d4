import errno
import socket
import ssl

import pytest

from dualmap.instances.server.reasons import (
    MOST_CHARACTERS,
    ended,
    no_answer,
    no_model_list,
    no_token,
    refused,
    shortened,
    start_failed,
    started_again,
    what_it_is,
)
from dualmap.instances.server.start import free_ports


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "it closed the connection"),
        (ConnectionResetError(), "it closed the connection"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "it closed the connection"),
        (TimeoutError(), "no answer within 2 s"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "no answer within 2 s"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "its name is not known"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to its host"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "there is no such socket"),
        (OSError("Multiple exceptions: one, other"), "no connection: Multiple exceptions: one, other"),
        (untrusted(), "its certificate is not trusted: self-signed certificate"),
        (ssl.SSLError(1, "wrong version number"), "no TLS connection: wrong version number: does it speak plain HTTP?"),
    ],
)
def test_a_server_that_does_not_answer(error, reason):
    assert no_answer(error, timeout_s=2.0) == reason


def test_a_port_where_nobody_listens_refuses_the_connection():
    (port,) = free_ports("127.0.0.1", 1)
    with pytest.raises(ConnectionRefusedError) as caught:
        socket.create_connection(("127.0.0.1", port))
    assert no_answer(caught.value, 2.0) == "connection refused"


@pytest.mark.parametrize(
    ("status", "with_key", "reason"),
    [
        (503, False, "503: it loads its model"),
        (401, False, "401: it wants a key (gateway.instance_key_file)"),
        (403, True, "403: it refuses the key"),
        (500, False, "/v1/models answers 500"),
        (429, False, "/v1/models answers 429"),
        (404, False, "answers, but is no vLLM server: /v1/models answers 404"),
        (302, False, "answers, but is no vLLM server: /v1/models answers 302"),
    ],
)
def test_a_server_that_answers_with_another_status_than_200(status, with_key, reason):
    assert refused("/v1/models", status, with_key) == reason


def test_a_server_that_answers_but_cannot_be_used():
    assert no_model_list("/v1/models") == "answers, but is no vLLM server: /v1/models is no list of models"
    assert no_token("/v1/completions", 500) == "makes no token: /v1/completions answers 500"
    assert no_token("/v1/completions", 0) == "makes no token: /v1/completions does not answer"


@pytest.mark.parametrize(
    ("body", "software", "location", "what"),
    [
        (b"", "", "", ": nothing"),
        (b"ok", "BaseHTTP/0.6", "", ": text, from BaseHTTP/0.6"),
        (b"\n<!DOCTYPE html><title>Welcome", "nginx/1.26", "", ": a page of HTML, from nginx/1.26"),
        (b'{"detail": "Not Found"}', "uvicorn", "", ": JSON of another kind, from uvicorn"),
        (b"<html>", "nginx", "https://h:8443/v1/models", ": it redirects to https://h:8443/v1/models"),
        (b"<html>", "x" * 1000, "", ": a page of HTML, from " + "x" * 160),
    ],
)
def test_what_is_no_vllm_is_told_by_what_it_answers(body, software, location, what):
    assert what_it_is(body, software, location) == what
    assert refused("/v1/models", 404, what=what).endswith(f"answers 404{what}")
    assert no_model_list("/v1/models", what).endswith(f"is no list of models{what}")


def test_a_server_of_ours_that_ends():
    assert ended(-9) == "its server ended with exit code -9: Killed"
    assert ended(1) == "its server ended with exit code 1"
    assert started_again(ended(-9, "out of memory")) == (
        "its server ended with exit code -9: out of memory; started again"
    )
    assert start_failed(1, "no GPU\nTraceback") == "its start failed: no GPU"
    assert start_failed(3, "no GPU") == "its start failed 3 times in a row: no GPU"


def test_what_a_server_says_is_shown_in_a_line_of_bounded_length():
    assert shortened("  one \ntwo") == "one"
    assert shortened("") == ""
    assert len(shortened("a" * 1000)) == MOST_CHARACTERS
