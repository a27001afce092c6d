// The contract as QuickJS has it; ../../wit says what each field and function promises.
//
// 64-bit numbers are plain numbers here, exact to 2^53 - 1. What is missing is null here.

declare module "reduct-sink:transform/host@0.1.0" {
  export type Level = "error" | "warn" | "info" | "debug";
  export interface Label { name: string; value: string }
  export function log(level: Level, text: string): void;
  export function payload(): Uint8Array;
  export function read(offset: number, length: number): Uint8Array;
  export function entry(): string;
  export function labels(): Label[];
  export function contentType(): string;
}

declare module "reduct-sink:transform/types@0.1.0" {
  export interface Header { key: string; value: Uint8Array | null }
  export interface Message {
    topic: string;
    partition: number;
    offset: number;
    timestamp: number;
    key: Uint8Array | null;
    headers: Header[];
    payloadSize: number;
  }
  export interface LabelChange { name: string; value?: string }
  export interface Change {
    entry?: string;
    timestamp?: number;
    labels: LabelChange[];
    contentType?: string;
    payload?: Uint8Array;
  }
  export type Verdict =
    | { tag: "keep" }
    | { tag: "drop" }
    | { tag: "change"; val: Change }
    | { tag: "split"; val: Change[] };
  // To be thrown.
  export type Failure = { tag: "reject"; val: string } | { tag: "retry"; val: string };
}

// Writes to the host's log.
declare const console: Record<"log" | "info" | "debug" | "trace" | "warn" | "error", (...values: unknown[]) => void>;
