// What happened to the fleet lately.

import { element, showEmpty, table } from "./elements.js";
import { moment, several } from "./numbers.js";

const BAD = /_(lost|suspect|slow|refused|restarted)$/;

export function eventsHint(events) {
  return events.length ? `The last ${several(events.length, "event", "events")} of the fleet, newest first.` : "";
}

// events: newest first.
export function showEvents(parent, events) {
  if (!events.length) {
    parent.removeAttribute("tabindex");
    showEmpty(parent, "Nothing has happened yet.");
    return;
  }
  const rows = events.map((event) => ({
    kind: BAD.test(event.event) ? "bad" : "",
    cells: [
      [element("time", { datetime: new Date(event.at * 1000).toISOString() }, moment(event.at))],
      event.event.replaceAll("_", " "), event.said,
    ],
  }));
  const headings = [["At", "time"], ["Event", "event"], ["What happened", "said"]];
  const scrolled = parent.scrollTop;
  parent.replaceChildren(table("What happened, newest first", headings, rows));
  parent.scrollTop = scrolled;
  parent.setAttribute("tabindex", "0"); // it scrolls, also by keys
}
