/* $title for $machine, written by regroup $version. Do not edit.
 *
 * $signature does one image on the calling thread and returns ${NAME}_OK;
 * or, having done nothing, one of the other values below. It calls no function of any library, allocates
 * nothing and keeps nothing: any number of threads may call it, each with an arena of its own. Numbers are
 * float32, images are (channels, height, width) without gaps. The arena's content does not matter before a
 * call, and means nothing after it.
 */
#ifndef ${NAME}_H
#define ${NAME}_H

#ifdef __cplusplus
extern "C" {
#endif

#define ${NAME}_ABI_VERSION $abi
#define ${NAME}_MODEL "$title"
#define ${NAME}_TARGET "$machine"
#define ${NAME}_WEIGHTS_SHA256 "$digest"

#define ${NAME}_ARENA_BYTES $arena
#define ${NAME}_ALIGNMENT $alignment /* of the arena${and_weights}, in bytes */
$weights_bytes
$ports
enum {
    ${NAME}_OK = 0,
    ${NAME}_NULL_POINTER = $null_pointer, /* an argument is no address */
    ${NAME}_UNALIGNED = $unaligned, /* the arena${or_weights}: no multiple of ${NAME}_ALIGNMENT */
    ${NAME}_NO_CPU = $no_cpu, /* the CPU is none that there is code for, where that is looked at */
    ${NAME}_NO_SHARES = $no_shares /* shares of a parallel call: fewer than one */
};

int ${name}_run($prototype);
$more
#ifdef __cplusplus
}
#endif

#endif
