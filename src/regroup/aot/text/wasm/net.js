// $title for $machine, written by regroup $version. Do not edit.
//
//     import { load } from "./$name.js";
//     const network = await load();
//     const { $first_output } = network.run(image);  // Float32Arrays; images are (channels, height, width)

/** Inputs and outputs by name, in order, with their shapes. */
export const inputs = $input_shapes;
export const outputs = $output_shapes;

/** SHA-256 of the weights. */
export const weights = "$digest";

const ARENA_BYTES = $arena;
const ALIGNMENT = $alignment;

const floats = (shape) => shape.reduce((a, b) => a * b, 1);

/**
 * Load the network: from $name.wasm beside this file, or from an address, a response, bytes or a module.
 * Each has memory of its own, so each worker loads one.
 */
export async function load(source = new URL("./$name.wasm", import.meta.url)) {
  if (!(source instanceof WebAssembly.Module)) {
    if (typeof source === "string" || source instanceof URL) source = await fetch(source);
    if (typeof Response !== "undefined" && source instanceof Response) {
      if (!source.ok) throw new Error(`$${source.url}: $${source.status} $${source.statusText}`);
      source = await source.arrayBuffer();
    }
    source = await WebAssembly.compile(source);
  }
  const { exports } = await WebAssembly.instantiate(source, {});
  let end = exports.heap.value;
  const place = (bytes) => {
    const start = end;
    end = Math.ceil((start + bytes) / ALIGNMENT) * ALIGNMENT;
    return start;
  };
  const arena = place(ARENA_BYTES);
  const places = [...Object.entries(inputs), ...Object.entries(outputs)].map(([name, shape]) => ({
    name,
    count: floats(shape),
    at: place(4 * floats(shape)),
  }));
  const missing = end - exports.memory.buffer.byteLength;
  if (missing > 0) exports.memory.grow(Math.ceil(missing / 65536));
  const numbers = places.map(({ at, count }) => new Float32Array(exports.memory.buffer, at, count));
  const given = numbers.length - Object.keys(outputs).length;

  return {
    /** Do one image: an array of numbers for each input; returns a Float32Array for each output, by name. */
    run(...images) {
      if (images.length !== given) throw new RangeError(`$${images.length} inputs; there are $${given}`);
      images.forEach((image, i) => {
        if (image.length !== places[i].count)
          throw new RangeError(`$${places[i].name} has $${image.length} numbers, not $${places[i].count}`);
        numbers[i].set(image);
      });
      const status = exports.${name}_run(...places.map(({ at }) => at), arena);
      if (status !== 0) throw new Error(`${name}_run: $${status}`);
      return Object.fromEntries(places.slice(given).map(({ name }, i) => [name, numbers[given + i].slice()]));
    },
  };
}
