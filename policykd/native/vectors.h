/* Vectors as wide as the machine's, and the activations of networks on them. */
#pragma once
#include <stddef.h>

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 }; /* 6 x 4 sums and 4 operands fit 32 registers */
#else
enum { LANES = 8, VECTORS = 2 }; /* 6 x 2 sums fit 16 registers of 8 numbers, or 32 of 4 */
#endif
enum { PANEL = LANES * VECTORS };

typedef ptrdiff_t Int;
typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* 4: at any address */
typedef int Mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16") /* or sums would not stay in registers */

/* A vector of which only the first `width` numbers exist in memory; the others are 0. */
INLINE Vec load(const float *from, int width) {
    if (width == LANES) return *(const Vec *)from;
    float copy[LANES];
    for (int i = 0; i < LANES; i++) copy[i] = i < width ? from[i] : 0;
    return *(Vec *)copy;
}

INLINE void store(float *to, Vec value, int width) {
    for (int i = 0; width < LANES && i < width; i++) to[i] = value[i];
    if (width == LANES) *(Vec *)to = value;
}

INLINE Vec zero_where(Mask mask, Vec value) { return (Vec)(~mask & (Mask)value); }
INLINE Vec choose(Mask mask, Vec yes, Vec no) { return (Vec)((mask & (Mask)yes) | (~mask & (Mask)no)); }

#if defined(__AVX512F__)
#define LOW(x, y) __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(x, y) __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#else
#define LOW(x, y) __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(x, y) __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15)
#endif

/* Sum of a vector's numbers, halves added to halves. */
INLINE float sum_of(Vec x) {
    UNROLL for (int width = LANES; width > 1; width /= 2) x = LOW(x, x) + HIGH(x, x);
    return x[0];
}

/* tanh(x) = x p(x^2) / q(x^2), the rational approximation of Eigen and XLA: off by at most 5 units in the last
 * place. Beyond 7.9 it is 1 or -1 in float32; below 0.0004 it is x. NaN passes. */
INLINE Vec tanh_of(Vec x) {
    const Vec bound = (Vec){0} + 7.90531110763549805f;
    const Vec y = choose(x > bound, bound, choose(x < -bound, -bound, x)), z = y * y;
    Vec p = z * -2.76076847742355e-16f + 2.00018790482477e-13f;
    p = p * z + -8.60467152213735e-11f;
    p = p * z + 5.12229709037114e-08f;
    p = p * z + 1.48572235717979e-05f;
    p = p * z + 6.37261928875436e-04f;
    p = p * z + 4.89352455891786e-03f;
    Vec q = z * 1.19825839466702e-06f + 1.18534705686654e-04f;
    q = q * z + 2.26843463243900e-03f;
    q = q * z + 4.89352518554385e-03f;
    return choose(z < 1.6e-7f, x, y * p / q);
}

/* Through tanh: off by at most 3e-7, absolutely. NaN passes. */
INLINE Vec sigmoid_of(Vec x) { return 0.5f + 0.5f * tanh_of(0.5f * x); }

/* ELU: x above 0, else exp(x) - 1 = 2^n (exp(r) - 1) + 2^n - 1 with x = n log 2 + r, |r| <= log(2) / 2, where the
 * series of exp(r) - 1 has eight terms. Below -18 it is -1 in float32. NaN passes. */
INLINE Vec elu_of(Vec x) {
    const Vec low = (Vec){0} - 18.0f, y = choose(x < low, low, x);
    const Vec shifted = y * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: n is in the last bits */
    const Vec n = shifted - 12582912.0f, power = (Vec)(((Mask)shifted + 127) << 23);
    const Vec r = (y - n * 0.693145752f) - n * 1.42860677e-6f; /* log 2 in two parts: n times the first is exact */
    Vec p = r * 2.48015873e-5f + 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * (r * r) + r;
    return choose(x > 0, x, power * p + (power - 1));
}

enum { RELU, TANH, ELU }; /* as in kernels.py */

INLINE Vec activation_of(int activation, Vec x) {
    if (activation == TANH) return tanh_of(x);
    if (activation == ELU) return elu_of(x);
    return zero_where(x < 0, x); /* such that NaN passes, as in torch: a diverged network must stay visible */
}

/* Gradient of what went into an activation, of the gradient of its output and that output. */
INLINE Vec through_activation(int activation, Vec gradient, Vec output) {
    if (activation == TANH) return gradient * (1 - output * output);
    if (activation == ELU) return gradient * choose(output > 0, (Vec){0} + 1, output + 1);
    return zero_where(output <= 0, gradient);
}
