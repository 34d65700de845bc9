/* Trains a classifier of images with the C that lossc made of a net and a solver; no other framework takes part.
 *
 *     train IMAGES LABELS ITERATIONS [THREADS]
 *
 * IMAGES and LABELS are files in MNIST's idx format, not compressed. Batches are taken in file order, wrapping around at
 * the end; pixels are scaled to [0, 1). Prints the loss of each iteration with all its digits.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "net.h"

enum { SEED = 1, BATCH = LENET_LABEL_SIZE, PIXELS = LENET_DATA_SIZE / BATCH };

/* The content of an idx file of bytes whose header has `axes` sizes; ends the program if it is none. */
static uint8_t *read_idx(const char *path, int axes, uint32_t *count, uint32_t *item)
{
    FILE *file = fopen(path, "rb");
    uint8_t header[16];
    const size_t length = 4 + 4 * (size_t)axes;
    if (file == NULL || fread(header, 1, length, file) != length || header[2] != 8 || header[3] != axes) {
        fprintf(stderr, "%s: no idx file of bytes with %d axes\n", path, axes);
        exit(1);
    }
    *count = 0;
    *item = 1;
    for (int k = 0; k < axes; k++) {
        const uint8_t *b = header + 4 + 4 * k;
        const uint32_t size = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
        if (k == 0) {
            *count = size;
        } else {
            *item *= size;
        }
    }
    const size_t bytes = (size_t)*count * *item;
    uint8_t *content = malloc(bytes + 1);
    if (content == NULL || fread(content, 1, bytes, file) != bytes || bytes == 0) {
        fprintf(stderr, "%s: shorter than its header says\n", path);
        exit(1);
    }
    fclose(file);
    return content;
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc > 5) {
        fprintf(stderr, "usage: %s IMAGES LABELS ITERATIONS [THREADS]\n", argv[0]);
        return 2;
    }
    uint32_t images, pixels, labels, one;
    uint8_t *image = read_idx(argv[1], 3, &images, &pixels);
    uint8_t *label = read_idx(argv[2], 1, &labels, &one);
    if (images != labels || pixels != PIXELS) {
        fprintf(stderr, "%u images of %u pixels and %u labels: the net wants %d pixels\n", images, pixels, labels, PIXELS);
        return 1;
    }
    const int iterations = atoi(argv[3]), threads = argc == 5 ? atoi(argv[4]) : 0;
    lossc_net *net = lenet_create(threads, SEED);
    if (net == NULL) {
        fprintf(stderr, "not enough memory\n");
        return 1;
    }
    uint32_t at = 0;
    for (int iteration = 0; iteration < iterations; iteration++) {
        float *data = lenet_data(net), *target = lenet_label(net);
        for (int k = 0; k < BATCH; k++, at = (at + 1) % images) {
            for (int p = 0; p < PIXELS; p++) {
                data[k * PIXELS + p] = image[(size_t)at * PIXELS + (size_t)p] * (1.0f / 256.0f);
            }
            target[k] = label[at];
        }
        const double loss = lenet_step(net);
        if (lenet_error(net) != NULL) {
            fprintf(stderr, "%s\n", lenet_error(net));
            return 1;
        }
        printf("%d %.9g\n", iteration, loss);
    }
    lenet_destroy(net);
    free(image);
    free(label);
    return 0;
}
