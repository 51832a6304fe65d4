// Numbers as text, each with its unit.

export const NOTHING = "–";

const whole = new Intl.NumberFormat("en");

export function count(number) {
  return whole.format(Math.round(number));
}

// 0.34 s, 3.1 s, 42 s, 3 min 5 s, 2 h 7 min
export function seconds(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value < 1) return `${value.toFixed(2)} s`;
  if (value < 10) return `${value.toFixed(1)} s`;
  const all = Math.round(value);
  if (all < 120) return `${all} s`;
  if (all < 7200) return `${Math.floor(all / 60)} min ${all % 60} s`;
  return `${Math.floor(all / 3600)} h ${Math.floor((all % 3600) / 60)} min`;
}

export function milliseconds(value) {
  return `${count(value * 1000)} ms`;
}

export function percent(share, digits = 0) {
  if (share === null || share === undefined) return NOTHING;
  return share > 0 && share < 0.005 ? "< 1 %" : `${(share * 100).toFixed(digits)} %`;
}

// 99.96 % of many must not look like all of them.
export function percentKept(kept, missed) {
  if (!kept && !missed) return NOTHING;
  const share = kept / (kept + missed);
  if (!missed) return "100 %";
  return share > 0.999 ? "> 99.9 %" : percent(share, 1);
}

export function several(number, one, many) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

// A time of today, else with its date.
export function moment(unixS) {
  const at = new Date(unixS * 1000);
  const day = at.toDateString() === new Date().toDateString() ? ""
    : `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} `;
  return day + clock(unixS);
}

export function clock(unixS) {
  return new Date(unixS * 1000).toLocaleTimeString("en-GB");
}
