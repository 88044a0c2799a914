// $title for $machine, written by regroup $version. Do not edit.

/** Inputs and outputs by name, in order, with their shapes. */
export const inputs: $input_types;
export const outputs: $output_types;

/** SHA-256 of the weights. */
export const weights: string;

export interface Network {
  /** Do one image; float32 numbers, images as (channels, height, width). */
  run($js_parameters): $js_result;
}

/** Load the network: from $name.wasm beside this file, or from an address, a response, bytes or a module. */
export function load(source?: string | URL | Response | BufferSource | WebAssembly.Module): Promise<Network>;
