/* Does one job of `run.py` on another machine: elsewhere JOB RESULT. */
#define _GNU_SOURCE
#include "region.h"

void kernel(void *views, intptr_t low, intptr_t high, void *scratch);

enum { CURSOR = 64, MOST = 32 };

static int64_t number(FILE *file) {
    int64_t found;
    if (fread(&found, 8, 1, file) != 1)
        exit(3);
    return found;
}

int main(int count, char **paths) {
    FILE *job = count == 3 ? fopen(paths[1], "rb") : NULL;
    if (!job)
        return 3;
    int at_end = (int)number(job);
    int64_t calls = number(job), ranges[MOST][2];
    for (int i = 0; i < calls; i++)
        ranges[i][0] = number(job), ranges[i][1] = number(job);
    int64_t buffers = number(job), bytes[MOST];
    unsigned char *memory[MOST] = {0};
    void *views[MOST];
    if (buffers < 1 || buffers > MOST)
        return 3;
    for (int i = 0; i < buffers; i++) { /* the last is private */
        bytes[i] = number(job);
        memory[i] = region((size_t)bytes[i], at_end);
        views[i] = memory[i] + number(job);
        if (fread(memory[i], 1, (size_t)bytes[i], job) != (size_t)bytes[i])
            return 3;
    }
    fclose(job);
    unsigned char *private = memory[buffers - 1];
    int64_t done = -1;
    for (int i = 0; i < calls; i++) {
        ((intptr_t *)private)[2] = ranges[i][0] == done;
        kernel(views, (intptr_t)ranges[i][0], (intptr_t)ranges[i][1], private + CURSOR);
        done = ranges[i][1];
    }
    FILE *result = fopen(paths[2], "wb");
    for (int i = 0; i < buffers; i++)
        if (!result || fwrite(memory[i], 1, (size_t)bytes[i], result) != (size_t)bytes[i])
            return 3;
    leave_regions();
    return fclose(result) ? 3 : 0;
}
