
/* As ${name}_run, on threads of yours: each step is cut into shares, as many as there are threads, or more where
 * cores differ in speed. parallel_for(context, shares, task, state) is a function of yours that calls
 * task(state, i) for each i from 0 to shares - 1, in any order and on any threads, and returns when all are done;
 * it is called once for each step. The arena has ${NAME}_PARALLEL_BYTES(shares). Results have the bits of
 * ${name}_run's.
 */
#define ${NAME}_PARALLEL_BYTES(shares) ($arena_alone + (shares) * (unsigned long)$share)

typedef void ${name}_task(void *state, int share);
typedef void ${name}_parallel_for(void *context, int shares, ${name}_task *task, void *state);
int ${name}_run_parallel($prototype, int shares, ${name}_parallel_for *parallel_for, void *context);
