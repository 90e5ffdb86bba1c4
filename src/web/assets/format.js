// Numbers, sizes and times for people. Knows no page.

const grouped = new Intl.NumberFormat("en", { useGrouping: true, maximumFractionDigits: 0 });

/** 12345 as "12 345": thin spaces are read the same everywhere. */
export function count(value) {
  return grouped.format(value).replaceAll(",", "\u202f");
}

export function rate(value) {
  if (value >= 100) return count(value);
  return value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1);
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)}\u202f${units[unit]}`;
}

/** Two units at most: "3 d 4 h", "12 min", "8 s". */
export function duration(seconds) {
  seconds = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days > 0) return hours > 0 ? `${days} d ${hours} h` : `${days} d`;
  if (hours > 0) return minutes > 0 ? `${hours} h ${minutes} min` : `${hours} h`;
  return minutes > 0 ? `${minutes} min` : `${seconds} s`;
}

export function clock(time) {
  return new Date(time).toLocaleTimeString("en-GB");
}

/** A value for people; what is missing is a dash. */
export function value(value) {
  if (value === null || value === undefined) return "\u2013";
  return typeof value === "object" ? bits(value) : String(value);
}

/** Flags by their names where they are set, wider fields with their numbers. */
function bits(parts) {
  const shown = Object.entries(parts).filter(([, part]) => part !== false);
  const words = shown.map(([name, part]) => (part === true ? name : `${name} ${part}`));
  return words.length === 0 ? "none set" : words.join(", ");
}

export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}
