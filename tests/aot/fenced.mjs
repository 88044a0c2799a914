// Runs a WebAssembly module on files of inputs, and looks at all of its memory before and after:
// node fenced.mjs net.wasm ARENA_BYTES FLOATS,FLOATS,... outputs inputs ... outputs ...
import { readFileSync, writeFileSync } from "node:fs";

const [path, arenaBytes, list, outputs, ...files] = process.argv.slice(2);
const floats = list.split(",").map(Number);
const { instance } = await WebAssembly.instantiate(readFileSync(path), {});
const { heap, memory, net_run } = instance.exports;
const STACK = 1 << 16, APART = 4096;

let end = heap.value;
const place = (bytes) => {
  const start = (end = Math.ceil((end + APART) / 64) * 64);
  end += bytes;
  return { start, end };
};
const places = floats.map((count) => place(4 * count)), arena = place(Number(arenaBytes));
memory.grow(Math.ceil((end + APART) / 65536));
new Uint32Array(memory.buffer, heap.value & ~3).fill(0x7fc0beef); // a NaN
const bytes = new Uint8Array(memory.buffer), first = places.length - Number(outputs);
places.slice(0, first).forEach(({ start }, i) => bytes.set(readFileSync(files[i]), start));
const before = bytes.slice();
const given = [...places.map(({ start }) => start), arena.start];
for (let i = 0; i < given.length; i++)
  if (net_run(...given.map((at, j) => (i === j ? 0 : at))) !== 1) throw new Error("a null pointer is not refused");
if (net_run(...given.slice(0, -1), arena.start + 4) !== 2) throw new Error("an arena is not refused");
if (net_run(...given) !== 0) throw new Error("it failed");
const may = [{ start: heap.value - STACK, end: heap.value }, ...places.slice(first), arena];
for (let i = 0; i < bytes.length; i++)
  if (bytes[i] !== before[i] && !may.some(({ start, end }) => start <= i && i < end))
    throw new Error(`it writes at ${i}, outside of its memory`);
places.slice(first).forEach(({ start, end }, i) => writeFileSync(files[first + i], bytes.slice(start, end)));
