// ONNX Runtime as a peer: see peer.h for the lines it reads and writes.
//
//   node peer_ort.mjs GRAPH.onnx EVENTS.bin THREADS
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(import.meta.url);
const ort = require("onnxruntime-node");
const { version } = require("onnxruntime-node/package.json");

const [graph, eventsPath, threads] = process.argv.slice(2);
const bytes = readFileSync(eventsPath);
const numbers = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
const events = numbers.length / 3;
const tensor = (part) =>
  new ort.Tensor(
    "int64",
    BigInt64Array.from(numbers.subarray(part * events, (part + 1) * events), BigInt),
    [events],
  );
const feeds = { neuron: tensor(0), bin: tensor(1), value: tensor(2) };
const session = await ort.InferenceSession.create(graph, {
  executionProviders: ["cpu"],
  graphOptimizationLevel: "all",
  intraOpNumThreads: Number(threads),
  interOpNumThreads: 1,
  logSeverityLevel: 3,
});
const run = async () => (await session.run(feeds)).behavior.data;

await run();
console.log(`ready ONNX Runtime ${version}`);
for await (const line of createInterface({ input: process.stdin })) {
  const [command, count] = line.split(" ");
  if (command === "output") {
    console.log(Array.from(await run()).join(" "));
  } else if (command === "run") {
    const us = [];
    for (let i = 0; i < Number(count); ++i) {
      const start = process.hrtime.bigint();
      await run();
      us.push(Number(process.hrtime.bigint() - start) / 1e3);
    }
    console.log(us.join(" "));
  } else {
    console.error(`peer_ort: unknown line '${line}'`);
    process.exit(1);
  }
}
