// Ten mistakes; ../README.md says what the comments mean.

import type { Message, Verdict } from "reduct-sink:transform/types@0.1.0";

type Mistake = (message: Message) => unknown;

const change = (change: unknown) => ({ tag: "change", val: change });

declare const nowhere: unknown;

const mistakes: Record<string, Mistake> = {
  error() {
    throw new Error("my own error"); //= error: Error: my own error
  },
  undefined_field(message) {
    return (message as unknown as { camera: { name: string } }).camera.name; //= undefined_field: TypeError: cannot read property 'name' of undefined
  },
  unknown_name() {
    return nowhere; //= unknown_name: ReferenceError: nowhere is not defined
  },
  no_json() {
    return JSON.parse("{"); //= no_json: SyntaxError: 
  },
  negative_length() {
    return new Uint8Array(-1); //= negative_length: RangeError: 
  },
  thrown_text() {
    throw "just a text"; //~ thrown_text: just a text
  },
  returned_nothing() {}, //~ returned_nothing: what transform returned is nothing, expected an object { tag }
  wrong_tag() {
    return { tag: "dropp" }; //~ wrong_tag: the verdict's tag is the text "dropp", expected "keep", "drop", "change" or "split"
  },
  number_as_label() {
    return change({ labels: [{ name: "temp", value: 23.65 }] }); //~ number_as_label: val.labels[0].value is the number 23.65, expected a text
  },
  unknown_field() {
    return change({ content_type: "image/jpeg" }); //~ unknown_field: val.content_type is the text "image/jpeg", expected one of entry, timestamp
  },
};

export const transformer = {
  configure(): void {},

  transform(message: Message): Verdict {
    const name = String.fromCharCode(...(message.headers[0]?.value ?? []));
    console.log("making the mistake", name);
    return mistakes[name]?.(message) as Verdict;
  },
};
