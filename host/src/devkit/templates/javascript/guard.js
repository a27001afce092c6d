// The code that `plugin build` puts around a plugin in JavaScript or TypeScript. The first part is joined to the
// author's first line, so that line numbers stay; the rest follows the author's code.
//
// Guarantees: an exception or a verdict of a wrong shape rejects the record; the reason has the exception's type and
// message, and the author's file and line; `console` writes to the host's log.

//@before
import { log as reductSinkLog } from "reduct-sink:transform/host@0.1.0";
const reductSinkConsole = { waiting: [], started: false };
globalThis.console = (() => {
  const show = (value) => {
    if (typeof value === "string") return value;
    if (typeof value === "bigint") return String(value);
    if (value instanceof Error) return `${value.name}: ${value.message}`;
    try {
      return JSON.stringify(value, (_, inner) => (typeof inner === "bigint" ? String(inner) : inner)) ?? String(value);
    } catch {
      return String(value);
    }
  };
  const write = (level) => (...values) => {
    const text = values.map(show).join(" ");
    // While the component is built there is no host yet.
    if (reductSinkConsole.started) reductSinkLog(level, text);
    else reductSinkConsole.waiting.push([level, text]);
  };
  const info = write("info");
  return { log: info, info, debug: write("debug"), trace: write("debug"), warn: write("warn"), error: write("error") };
})();

//@after
{
  const file = "{{file}}";
  // For each line of the compiled script, the line of the author's file; null if the script wasn't compiled.
  const lines = {{lines}};
  const lastLine = {{last_line}};

  // The file and line of each call on an error's stack: "    at name (file:line:column)".
  const calls = (error) => {
    const found = String(error.stack ?? "").matchAll(/([^\s()]+?):(\d+)(?::\d+)?\)?\s*$/gm);
    return [...found].map(([, name, line]) => ({ name, line: Number(line) }));
  };
  // QuickJS's name for this file. A stack can also name lines of a text that is parsed as JSON.
  const name = calls(new Error())[0]?.name;

  // The line of the author's file that threw an error, or that called the function that threw it.
  const place = (error) => {
    for (const call of calls(error)) {
      const { line } = call;
      if (call.name === name && line <= lastLine) return ` (${file}:${lines?.[line - 1] ?? line})`;
    }
    return "";
  };
  const describe = (error) => {
    if (error instanceof Error) return `${error.name}: ${error.message}${place(error)}`;
    return typeof error === "string" ? error : `the plugin threw ${kind(error)}`;
  };

  const kind = (value) => {
    if (value === null) return "null";
    if (value === undefined) return "nothing";
    if (Array.isArray(value)) return "a list";
    if (value instanceof Uint8Array) return "bytes";
    const names = { string: "the text", number: "the number", bigint: "the number", boolean: "the boolean" };
    if (!names[typeof value]) return typeof value === "object" ? "an object" : `a ${typeof value}`;
    const text = typeof value === "string" ? JSON.stringify(value) : String(value);
    return `${names[typeof value]} ${text.length > 60 ? `${text.slice(0, 60)}…` : text}`;
  };
  const expect = (good, what, value, expected) => {
    if (!good) throw { tag: "reject", val: `TypeError: ${what} is ${kind(value)}, expected ${expected} (${file})` };
  };
  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const isNone = (value) => value === undefined || value === null;
  const isTime = (value) => typeof value === "bigint" || (Number.isSafeInteger(value) && value >= 0);

  const fields = ["entry", "timestamp", "labels", "contentType", "payload"];
  const checkChange = (change, what) => {
    expect(isObject(change), what, change, `an object with some of ${fields.join(", ")}`);
    for (const key of Object.keys(change)) {
      expect(fields.includes(key), `${what}.${key}`, change[key], `one of ${fields.join(", ")}`);
    }
    const { entry, timestamp, labels, contentType, payload } = change;
    expect(isNone(entry) || typeof entry === "string", `${what}.entry`, entry, "a text");
    expect(isNone(timestamp) || isTime(timestamp), `${what}.timestamp`, timestamp, "a whole number of microseconds");
    expect(isNone(contentType) || typeof contentType === "string", `${what}.contentType`, contentType, "a text");
    expect(isNone(payload) || payload instanceof Uint8Array, `${what}.payload`, payload, "a Uint8Array");
    expect(isNone(labels) || Array.isArray(labels), `${what}.labels`, labels, "a list of { name, value }");
    (labels ?? []).forEach((label, at) => {
      expect(isObject(label), `${what}.labels[${at}]`, label, "an object { name, value }");
      expect(typeof label.name === "string", `${what}.labels[${at}].name`, label.name, "a text");
      const { value } = label;
      expect(isNone(value) || typeof value === "string", `${what}.labels[${at}].value`, value, "a text: String(…)");
    });
    return isNone(labels) ? { ...change, labels: [] } : change;
  };
  const checked = (verdict) => {
    const tags = `an object { tag } with the tag "keep", "drop", "change" or "split"`;
    expect(isObject(verdict), "what transform returned", verdict, tags);
    switch (verdict.tag) {
      case "keep":
      case "drop":
        return verdict;
      case "change":
        return { tag: "change", val: checkChange(verdict.val, "val") };
      case "split":
        expect(Array.isArray(verdict.val), "val", verdict.val, "a list of changes");
        return { tag: "split", val: verdict.val.map((part, at) => checkChange(part, `val[${at}]`)) };
      default:
        expect(false, "the verdict's tag", verdict.tag, `"keep", "drop", "change" or "split"`);
    }
  };

  const { configure, transform } = transformer;
  transformer.configure = (config) => {
    reductSinkConsole.started = true;
    reductSinkConsole.waiting.splice(0).forEach(([level, text]) => reductSinkLog(level, text));
    try {
      configure?.call(transformer, config);
    } catch (error) {
      throw describe(error);
    }
  };
  transformer.transform = (message) => {
    try {
      return checked(transform.call(transformer, message));
    } catch (error) {
      const isFailure = isObject(error) && (error.tag === "reject" || error.tag === "retry");
      if (!isFailure) throw { tag: "reject", val: describe(error) };
      throw { tag: error.tag, val: typeof error.val === "string" ? error.val : describe(error.val) };
    }
  };
}
