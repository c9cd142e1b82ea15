import { appendFile } from "node:fs/promises";
import type { crc32c } from "@aws-crypto/crc32c";

// No kept package writes TensorBoard's event files from JavaScript; the format is a few bytes around a small message.

/** Appends scalars to a TensorBoard event file: `events.out.tfevents.*` in a run's folder. */
export class TensorBoardWriter {
  private started = false;

  constructor(readonly file: string) {}

  /** Adds values of one step, by tag. */
  async scalars(step: number, values: Readonly<Record<string, number>>): Promise<void> {
    const { crc32c } = await import("@aws-crypto/crc32c");
    const records = this.started ? [] : [record(event(0, field(3, Buffer.from("brain.Event:2"))), crc32c)];
    this.started = true;
    for (const [tag, value] of Object.entries(values)) {
      const simpleValue = Buffer.alloc(5);
      simpleValue[0] = (2 << 3) | 5;
      simpleValue.writeFloatLE(value, 1);
      records.push(
        record(
          event(step, field(5, field(1, Buffer.concat([field(1, Buffer.from(tag)), simpleValue])))),
          crc32c,
        ),
      );
    }
    await appendFile(this.file, Buffer.concat(records));
  }
}

/** A length-delimited protobuf field. */
const field = (number: number, content: Buffer): Buffer =>
  Buffer.concat([varint((number << 3) | 2), varint(content.length), content]);

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) | 128);
    rest = Math.floor(rest / 128);
  }
  return Buffer.from([...bytes, rest]);
}

/** tensorflow.Event: the time in seconds, the step, and what happened. */
function event(step: number, content: Buffer): Buffer {
  const time = Buffer.alloc(9);
  time[0] = (1 << 3) | 1;
  time.writeDoubleLE(Date.now() / 1000, 1);
  return Buffer.concat([time, Buffer.from([2 << 3]), varint(step), content]);
}

/** A TFRecord: the length and the data, each followed by its masked checksum. */
function record(data: Buffer, checksumOf: typeof crc32c): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(data.length));
  const checksum = (bytes: Buffer) => masked(checksumOf(bytes));
  return Buffer.concat([length, checksum(length), data, checksum(data)]);
}

function masked(checksum: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE((((checksum >>> 15) | (checksum << 17)) + 0xa282ead8) >>> 0);
  return bytes;
}
