/* What ${name}_run_hooked is given: the time of each step. Written by regroup $version. */
#ifndef ${NAME}_TIMES_H
#define ${NAME}_TIMES_H

#include <stdio.h>
#include "$name.h"

#if defined __ARM_ARCH_PROFILE && __ARM_ARCH_PROFILE == 'M'
#define TIMES_UNIT "cycles"
#define TIMES_WORD(address) (*(volatile unsigned *)(address))

typedef unsigned times_t; /* wraps, and so does a difference: right up to 2^32 cycles a step */
#define TIMES_BETWEEN(began, ended) ((double)((ended) - (began)))

/* The cycle counter of the debug unit; emulators have none, and some Cortex-M chips neither. */
static times_t times_now(void) {
    TIMES_WORD(0xE000EDFCu) |= 1u << 24;
    TIMES_WORD(0xE0001000u) |= 1u;
    return TIMES_WORD(0xE0001004u);
}
#else
#include <time.h>
#define TIMES_UNIT "us"
typedef double times_t;
#define TIMES_BETWEEN(began, ended) ((ended) - (began))

static times_t times_now(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}
#endif

static struct {
    const char *name;
    times_t began;
    double spent;
} times[${NAME}_STEPS];

static void times_hook(void *context, int step, const char *name, int done) {
    times_t now = times_now();
    (void)context;
    times[step].name = name;
    if (done)
        times[step].spent = TIMES_BETWEEN(times[step].began, now);
    else
        times[step].began = times_now();
}

static void times_print(void) {
    for (int i = 0; i < ${NAME}_STEPS && times[i].name; i++)
        printf("step %d: %.1f " TIMES_UNIT ", %s\n", i, times[i].spent, times[i].name);
}

#endif
