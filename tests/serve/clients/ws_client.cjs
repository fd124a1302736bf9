// Streams over Node's ws, in JSON and in binary frames as docs/protocol.md lays them out.
const WebSocket = require("ws");
const assert = require("assert");

const base = process.argv[2];

function connect(route) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(base + route);
    const waiting = [];
    const arrived = [];
    socket.on("message", (data, isBinary) => {
      const message = isBinary ? data : JSON.parse(data);
      waiting.length ? waiting.shift()(message) : arrived.push(message);
    });
    socket.on("error", reject);
    socket.on("open", () =>
      resolve({
        socket,
        next: () =>
          new Promise((done) => (arrived.length ? done(arrived.shift()) : waiting.push(done))),
      }));
  });
}

function binaryStep(sequence, events) {
  const frame = Buffer.alloc(32 + 16 * events.length);
  frame.writeUInt8(1, 0);
  frame.writeUInt8(2, 1);
  frame.writeUInt32LE(events.length, 4);
  frame.writeBigInt64LE(BigInt(sequence), 8);
  events.forEach(({ unit, value, bin }, i) => {
    frame.writeInt32LE(unit, 32 + 16 * i);
    frame.writeInt32LE(value, 36 + 16 * i);
    frame.writeBigInt64LE(BigInt(bin), 40 + 16 * i);
  });
  return frame;
}

(async () => {
  const json = await connect("/stream");
  const binary = await connect("/v1/stream");
  for (let n = 0; n < 50; ++n) {
    const bin = 4 * n + (n % 4);
    json.socket.send(JSON.stringify({
      sequence_number: n,
      events: [{ neuron_id: n % 16, time_bin: bin, value: 1 + (n % 3) }],
    }));
    binary.socket.send(binaryStep(n, [{ unit: n % 16, value: 1 + (n % 3), bin }]));
    const a = await json.next();
    const b = await binary.next();
    assert.strictEqual(a.sequence_number, n);
    assert.strictEqual(b.readUInt8(1), 130);
    assert.strictEqual(b.readUInt32LE(4), a.behavior.length);
    a.behavior.forEach((v, i) =>
      assert.strictEqual(Math.fround(v), b.readFloatLE(48 + 4 * i)));
  }
  json.socket.send(JSON.stringify({ sequence_number: 7, events: [] }));
  assert.strictEqual((await json.next()).error.expected, 50);
  binary.socket.send(Buffer.from([9, 9, 9]));
  const refused = await binary.next();
  assert.strictEqual(refused.readUInt8(1), 132);
  assert.strictEqual(refused.readUInt16LE(2), 400);
  const closed = new Promise((done) => json.socket.on("close", done));
  json.socket.send(JSON.stringify({ close: true }));
  assert.strictEqual((await json.next()).closed.steps, 50);
  assert.strictEqual(await closed, 1000);
  binary.socket.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
