/* Runs the network once: reads its inputs from files, prints its outputs. Written by regroup $version.
 *
 *     ./main $input_files
 *     ./main $input_files $expected_files
 *
 * Files hold float32 numbers, little-endian, without gaps. With the files of what is expected it prints how far
 * the outputs are from that instead.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "$name.h"
${uses}static _Alignas(${NAME}_ALIGNMENT) unsigned char arena[$arena_size];
$buffers
static const struct {
    const char *name;
    float *numbers;
    size_t floats;
} ports[] = {
$table};

enum { INPUTS = $inputs, PORTS = sizeof ports / sizeof *ports };

static int read_file(const char *path, void *numbers, size_t bytes) {
    unsigned char more;
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "%s: cannot be opened\n", path);
        return 0;
    }
    size_t got = fread(numbers, 1, bytes, file);
    int whole = got == bytes && fread(&more, 1, 1, file) == 0;
    fclose(file);
    if (!whole)
        fprintf(stderr, "%s: must have %lu bytes\n", path, (unsigned long)bytes);
    return whole;
}

/* Print the largest difference, and the largest number, so that one can see what that means. */
static int compare(int port, const char *path) {
    static float expected[$most];
    float difference = 0, largest = 0;
    size_t floats = ports[port].floats;
    if (!read_file(path, expected, floats * sizeof *expected))
        return 0;
    for (size_t i = 0; i < floats; i++) {
        float d = fabsf(ports[port].numbers[i] - expected[i]);
        if (d > difference || d != d)
            difference = d;
        if (fabsf(expected[i]) > largest)
            largest = fabsf(expected[i]);
    }
    printf("%s: at most %g from what is expected, whose largest number is %g\n", ports[port].name,
           (double)difference, (double)largest);
    return difference == difference;
}

int main(int count, char **paths) {
    int compared = count == 1 + PORTS, good = 1;
    if (count != 1 + INPUTS && !compared) {
        fprintf(stderr, "usage: %s $input_files [$expected_files]\n", paths[0]);
        return 2;
    }
    for (int i = 0; i < INPUTS; i++)
        if (!read_file(paths[1 + i], ports[i].numbers, ports[i].floats * sizeof(float)))
            return 1;
$run    if (status != ${NAME}_OK) {
        fprintf(stderr, "${name}_run: %d\n", status);
        return 1;
    }
    for (int i = INPUTS; i < PORTS; i++)
        if (compared)
            good &= compare(i, paths[1 + i]);
        else
            for (size_t j = 0; j < ports[i].floats; j++)
                printf("%s %lu %.9g\n", ports[i].name, (unsigned long)j, (double)ports[i].numbers[j]);
${at_end}    return good ? 0 : 1;
}
