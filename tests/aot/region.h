/* Memory that ends, and begins, at a page that may not be touched; or, without pages, with fences around. */
#ifndef REGION_H
#define REGION_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void stop(const char *why) {
    fprintf(stderr, "%s\n", why);
    exit(3);
}

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>

static unsigned char *region(size_t bytes, int at_end) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    unsigned char *start =
        mmap(NULL, whole + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(start, page, PROT_NONE) || mprotect(start + page + whole, page, PROT_NONE))
        stop("no memory");
    return start + page + (at_end ? whole - bytes : 0);
}

static void leave_regions(void) {}
#else
enum { FENCE = 1024, REGIONS = 64, POST = 0xA5 };
static struct {
    unsigned char *start, *end, *first, *last;
} regions[REGIONS];
static int region_count;

static unsigned char *region(size_t bytes, int at_end) {
    size_t whole = (bytes + 63) / 64 * 64;
    unsigned char *start = malloc(whole + 2 * FENCE + 64);
    if (!start || region_count == REGIONS)
        stop("no memory");
    memset(start, POST, whole + 2 * FENCE + 64);
    unsigned char *inside = (unsigned char *)(((uintptr_t)start + FENCE + 63) / 64 * 64);
    inside += at_end ? whole - bytes : 0;
    regions[region_count].start = start, regions[region_count].end = start + whole + 2 * FENCE + 64;
    regions[region_count].first = inside, regions[region_count++].last = inside + bytes;
    return inside;
}

static void leave_regions(void) {
    for (int i = 0; i < region_count; i++) {
        for (unsigned char *at = regions[i].start; at < regions[i].end; at++)
            if (*at != POST && (at < regions[i].first || at >= regions[i].last))
                stop("it writes outside of its memory");
        free(regions[i].start);
    }
    region_count = 0;
}
#endif
#endif
