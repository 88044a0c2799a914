/* Runs the network in memory that ends, and begins, at a page that may not be touched.
 *
 *     fenced [weights] inputs ... outputs ...
 *
 * Files of inputs are read, those of outputs are written. HEADER, TABLE, GIVEN, GIVEN_TO_RUN and ARENA_AT, the
 * arena's place among what is given, come from the test.
 */
#define _GNU_SOURCE
#include HEADER
#include "region.h"

static struct {
    size_t bytes;
    int written;
} ports[] = {TABLE};

enum { PORTS = sizeof ports / sizeof *ports };

#ifdef __linux__
static void protect(unsigned char *memory, size_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)memory / page * page;
    if (mprotect((void *)start, (uintptr_t)memory + bytes - start, PROT_READ))
        stop("mprotect");
}
#else
static void protect(unsigned char *memory, size_t bytes) { (void)memory, (void)bytes; }
#endif

static void poison(unsigned char *memory, size_t bytes) {
    uint32_t nan = 0x7fc0beef;
    for (size_t i = 0; i + 4 <= bytes; i += 4)
        memcpy(memory + i, &nan, 4);
}

#define RUN net_run(GIVEN_TO_RUN)
#define RUN_HOOKED net_run_hooked(GIVEN_TO_RUN, hook, &told)

static int told;

/* Steps come in order, each before it is done and after. */
static void hook(void *context, int step, const char *name, int done) {
    if (context != &told || step != told / 2 || step >= NET_STEPS || done != told % 2 || !name[0])
        stop("it tells of its steps otherwise");
    told++;
}

#ifdef NET_PARALLEL_BYTES
enum { SHARES = 3 };
#define RUN_PARALLEL(shares) net_run_parallel(GIVEN_TO_RUN, shares, backwards, NULL)

static void backwards(void *context, int shares, net_task *task, void *state) {
    if (context || shares != SHARES)
        stop("it asks for other shares");
    while (shares--)
        task(state, shares);
}
#endif

/* Run the network in another way that gives the same. */
static int again(void **given, int at_end) {
#ifdef NET_PARALLEL_BYTES
    if (at_end) {
        size_t bytes = NET_PARALLEL_BYTES(SHARES);
        if (RUN_PARALLEL(0) != NET_NO_SHARES)
            stop("no shares are not refused");
        given[ARENA_AT] = region(bytes, at_end);
        poison(given[ARENA_AT], bytes);
        return RUN_PARALLEL(SHARES);
    }
#endif
    told = 0;
    int status = RUN_HOOKED;
    return told ? status : -1;
}

int main(int count, char **paths) {
    unsigned char *first[PORTS];
    if (count != 1 + PORTS)
        stop("wrong number of files");
    for (int at_end = 0; at_end < 2; at_end++) {
        unsigned char *memory[PORTS], *arena = region(NET_ARENA_BYTES, at_end);
        poison(arena, NET_ARENA_BYTES);
        for (int i = 0; i < PORTS; i++) {
            memory[i] = region(ports[i].bytes, at_end);
            poison(memory[i], ports[i].bytes);
            if (ports[i].written)
                continue;
            FILE *file = fopen(paths[1 + i], "rb");
            if (!file || fread(memory[i], 1, ports[i].bytes, file) != ports[i].bytes)
                stop(paths[1 + i]);
            fclose(file);
            protect(memory[i], ports[i].bytes);
        }
        void *given[] = {GIVEN};
        for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
            void *kept = given[i];
            given[i] = NULL;
            if (RUN != 1)
                stop("a null pointer is not refused");
            given[i] = kept;
        }
        given[ARENA_AT] = arena + 4;
        if (RUN != 2)
            stop("an arena that is not aligned is not refused");
        given[ARENA_AT] = arena;
        if (RUN != 0)
            stop("it failed");
        for (int i = 0; i < PORTS; i++) {
            if (!ports[i].written)
                continue;
            if (at_end && memcmp(first[i], memory[i], ports[i].bytes))
                stop("it is not the same in other places");
            first[i] = memcpy(malloc(ports[i].bytes), memory[i], ports[i].bytes);
            poison(memory[i], ports[i].bytes);
        }
        poison(arena, NET_ARENA_BYTES);
        if (again(given, at_end) != 0)
            stop("it failed the second time");
        for (int i = 0; i < PORTS; i++)
            if (ports[i].written && memcmp(first[i], memory[i], ports[i].bytes))
                stop("it is not the same the second time");
        leave_regions();
    }
    for (int i = 0; i < PORTS; i++)
        if (ports[i].written) {
            FILE *file = fopen(paths[1 + i], "wb");
            if (!file || fwrite(first[i], 1, ports[i].bytes, file) != ports[i].bytes || fclose(file))
                stop(paths[1 + i]);
        }
    return 0;
}
