/**
 * The server's side of SPDY/3.1, as far as `kubectl attach` needs it (client-go's remotecommand over moby/spdystream):
 * the client opens all streams, always in the same order. No header of theirs is read, and none is sent. (The one
 * library for it, spdy-transport, has had no release since 2018 and brings 18 packages.)
 */
import { Duplex } from "node:stream";
import type { Socket } from "node:net";

const control = 0x8003;
const [synStream, synReply, ping, goAway] = [1, 2, 6, 7];
const fin = 1;

/** Headers are one zlib stream for all frames: no header, in a stored block, and an empty one that flushes it (RFC 1950, RFC 1951 3.2.4). */
const noHeaders = Buffer.from([0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
const zlibStart = Buffer.from([0x78, 0x01]);

/** Calls back for each stream that the client opens, by its place among them. */
export function serveSpdy(socket: Socket, onStream: (stream: Duplex, place: number) => void): void {
  const streams = new Map<number, Duplex>();
  const frame = (first: number, flags: number, payload: Buffer): void => {
    const head = Buffer.alloc(8);
    head.writeUInt32BE(first, 0);
    head.writeUInt32BE(payload.length, 4);
    head[4] = flags;
    if (!socket.destroyed) socket.write(Buffer.concat([head, payload]));
  };
  const open = (id: number): void => {
    const stream = new Duplex({
      read: () => undefined,
      write: (chunk: Buffer, _encoding, done) => {
        frame(id, 0, chunk);
        done();
      },
      final: (done) => {
        frame(id, fin, Buffer.alloc(0));
        done();
      },
    });
    const name = Buffer.alloc(4);
    name.writeUInt32BE(id);
    const headers = streams.size === 0 ? [zlibStart, noHeaders] : [noHeaders];
    frame(control * 65_536 + synReply, 0, Buffer.concat([name, ...headers]));
    streams.set(id, stream);
    onStream(stream, streams.size - 1);
  };
  let rest = Buffer.alloc(0);
  socket.on("data", (bytes: Buffer) => {
    rest = Buffer.concat([rest, bytes]);
    while (rest.length >= 8) {
      const size = rest.readUIntBE(5, 3);
      if (rest.length < 8 + size) return;
      const [first, flags, payload] = [rest.readUInt32BE(0), rest[4] ?? 0, rest.subarray(8, 8 + size)];
      rest = rest.subarray(8 + size);
      if (first >>> 16 !== control) {
        if (size > 0) streams.get(first)?.push(payload);
        if (flags & fin) streams.get(first)?.push(null);
      } else if ((first & 0xffff) === synStream) open(payload.readUInt32BE(0));
      else if ((first & 0xffff) === ping) frame(first, 0, payload);
      else if ((first & 0xffff) === goAway) socket.end();
    }
  });
}
