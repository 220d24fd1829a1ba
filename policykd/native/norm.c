/* Layer normalisation, forward and back, over blocks of as many samples as a vector has lanes: what a sample has one
 * of (its mean, say) is then one vector per block, and a block stays in the first cache. */
#include "norm.h"

#include <math.h>
#include <string.h>

static const float EPSILON = 1e-5f; /* torch's */

/* For vectors at j of n numbers: first all whole ones, where n is a constant, then a ragged end. */
#define COLUMNS(...) \
    do { \
        Int j = 0; \
        for (; j + LANES <= width; j += LANES) { enum { n = LANES }; __VA_ARGS__ } \
        if (j < width) { const int n = (int)(width - j); __VA_ARGS__ } \
    } while (0)

INLINE Vec zero_beyond(int n, Vec value) {
    if (n == LANES) return value;
    Mask lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    return zero_where(lane >= n, value);
}

/* Sum i of the result is that of x[i]: halves are added to halves, of two vectors at a time. Overwrites x. */
INLINE Vec sums_of(Vec x[LANES]) {
    UNROLL for (int count = LANES / 2; count > 0; count /= 2)
        UNROLL for (int i = 0; i < count; i++) x[i] = LOW(x[i], x[i + count]) + HIGH(x[i], x[i + count]);
    return x[0];
}

static void normalise_block(Int samples, Int width, int activation, const float *scale, const float *shift,
                            float *x, float *inverse, float *y) {
    Vec sums[LANES] = {{0}}, squares[LANES] = {{0}};
    float means[LANES], factors[LANES];
    for (Int i = 0; i < samples; i++) {
        const float *row = x + i * width;
        Vec sum = {0};
        COLUMNS(sum += load(row + j, n););
        sums[i] = sum;
    }
    *(Vec *)means = sums_of(sums) / (float)width;
    for (Int i = 0; i < samples; i++) {
        const float *row = x + i * width, mean = means[i];
        Vec sum = {0};
        COLUMNS(const Vec deviation = zero_beyond(n, load(row + j, n) - mean); sum += deviation * deviation;);
        squares[i] = sum;
    }
    const Vec variances = sums_of(squares) / (float)width;
    for (int i = 0; i < LANES; i++) factors[i] = 1 / sqrtf(variances[i] + EPSILON);
    if (inverse) memcpy(inverse, factors, sizeof(float) * (size_t)samples);
    for (Int i = 0; i < samples; i++, x += width, y += width) {
        const float mean = means[i], factor = factors[i];
        COLUMNS(const Vec normalised = (load(x + j, n) - mean) * factor;
                if (inverse) store(x + j, normalised, n);
                const Vec value = normalised * load(scale + j, n) + load(shift + j, n);
                store(y + j, activation_of(activation, value), n););
    }
}

static void through_block(Int samples, Int width, const float *scale, const float *normalised, const float *inverse,
                          float *gradient, float *to_scale, float *to_shift) {
    if (to_scale)
        COLUMNS(Vec scales = load(to_scale + j, n), shifts = load(to_shift + j, n);
                for (Int i = 0; i < samples; i++) {
                    const Vec g = load(gradient + i * width + j, n);
                    scales += g * load(normalised + i * width + j, n);
                    shifts += g;
                } store(to_scale + j, scales, n);
                store(to_shift + j, shifts, n););
    Vec sums[LANES] = {{0}}, along[LANES] = {{0}}; /* of gradients of `normalised`, and their products with it */
    float means[LANES], slopes[LANES];
    for (Int i = 0; i < samples; i++) {
        const float *row = gradient + i * width, *with = normalised + i * width;
        Vec sum = {0}, product = {0};
        COLUMNS(const Vec scaled = load(row + j, n) * load(scale + j, n); sum += scaled;
                product += scaled * load(with + j, n););
        sums[i] = sum;
        along[i] = product;
    }
    *(Vec *)means = sums_of(sums) / (float)width;
    *(Vec *)slopes = sums_of(along) / (float)width;
    for (Int i = 0; i < samples; i++, gradient += width, normalised += width) {
        const float mean = means[i], slope = slopes[i], factor = inverse[i];
        COLUMNS(const Vec scaled = load(gradient + j, n) * load(scale + j, n);
                store(gradient + j, (scaled - mean - load(normalised + j, n) * slope) * factor, n););
    }
}

#define BLOCKS(i, n) Int i = 0, n; n = samples - i < LANES ? samples - i : LANES, i < samples; i += LANES

void normalise(Int samples, Int width, int activation, const float *scale, const float *shift, float *x,
               float *inverse, float *y) {
    for (BLOCKS(i, n))
        normalise_block(n, width, activation, scale, shift, x + i * width, inverse ? inverse + i : NULL, y + i * width);
}

void activate_normalised(Int samples, Int width, int activation, const float *scale, const float *shift,
                         const float *normalised, float *y) {
    for (Int i = 0; i < samples; i++, normalised += width, y += width)
        COLUMNS(const Vec value = load(normalised + j, n) * load(scale + j, n) + load(shift + j, n);
                store(y + j, activation_of(activation, value), n););
}

void through_norm(Int samples, Int width, const float *scale, const float *normalised, const float *inverse,
                  float *gradient, float *to_scale, float *to_shift) {
    if (to_scale) memset(to_scale, 0, sizeof(float) * (size_t)width);
    if (to_shift) memset(to_shift, 0, sizeof(float) * (size_t)width);
    for (BLOCKS(i, n))
        through_block(n, width, scale, normalised + i * width, inverse + i, gradient + i * width, to_scale, to_shift);
}
