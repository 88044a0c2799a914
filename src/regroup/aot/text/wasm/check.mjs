// Runs the network on the example's numbers and says how far it is from what is expected: node check.mjs
import { readFile } from "node:fs/promises";
import { inputs, load, outputs } from "./$name.js";

const here = (file) => readFile(new URL(file, import.meta.url));
const numbers = async (name) => new Float32Array(new Uint8Array(await here(`$${name}.bin`)).buffer);

const network = await load(await here("$name.wasm"));
const found = network.run(...(await Promise.all(Object.keys(inputs).map(numbers))));
for (const name of Object.keys(outputs)) {
  const expected = await numbers(name);
  const difference = expected.reduce((most, x, i) => Math.max(most, Math.abs(x - found[name][i])), 0);
  const largest = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  console.log(`$${name}: at most $${difference} from what is expected, whose largest number is $${largest}`);
  if (Number.isNaN(difference)) process.exitCode = 1;
}
