import { appendFileSync } from "node:fs";
import { type MessageInitShape, create, toBinary } from "@bufbuild/protobuf";
import { EventSchema } from "./event_pb.js";

// No kept package writes TensorBoard's event files from JavaScript; the format is a few bytes around a small message.

/** Appends scalars to a TensorBoard event file: `events.out.tfevents.*` in a run's folder. */
export class TensorBoardWriter {
  private started = false;

  constructor(readonly file: string) {}

  /** Adds values of one step, by tag. */
  scalars(step: number, values: Readonly<Record<string, number>>): void {
    const records = this.started ? [] : [event(0, { case: "fileVersion", value: "brain.Event:2" })];
    this.started = true;
    for (const [tag, simpleValue] of Object.entries(values))
      records.push(event(step, { case: "summary", value: { value: [{ tag, simpleValue }] } }));
    appendFileSync(this.file, Buffer.concat(records.map(record)));
  }
}

const event = (step: number, what: MessageInitShape<typeof EventSchema>["what"]): Uint8Array =>
  toBinary(EventSchema, create(EventSchema, { wallTime: Date.now() / 1000, step: BigInt(step), what }));

/** A TFRecord: the length and the data, each followed by its masked checksum. */
function record(data: Uint8Array): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(data.length));
  return Buffer.concat([length, maskedChecksum(length), data, maskedChecksum(data)]);
}

function maskedChecksum(data: Uint8Array): Buffer {
  const checksum = crc32c(data);
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE((((checksum >>> 15) | (checksum << 17)) + 0xa282ead8) >>> 0);
  return bytes;
}

/** Remainders of each byte by Castagnoli's polynomial, bits reversed. */
const remainders = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = (byte >>> 1) ^ (byte & 1 ? 0x82f63b78 : 0);
  return byte;
});

const crc32c = (data: Uint8Array): number =>
  ~data.reduce((crc, byte) => (crc >>> 8) ^ remainders[(crc ^ byte) & 255]!, -1);
