/* Operands of products in bfloat16, two neighbours along the depth as one number of 32 bits: AVX-512 multiplies both
 * and adds them to a sum in float32. Rounded to the nearest, ties to even. */
#pragma once
#include "vectors.h"

typedef unsigned Pair __attribute__((may_alias));

#if defined(__AVX512BF16__)
#include <immintrin.h>
enum { ROUNDS = 1 }; /* whether this processor has such products */

/* Pairs of 16 numbers each of two rows of floats: (first[i], second[i]). */
INLINE Vec interleave(Vec first, Vec second) {
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first); /* first in the lower half */
    const __m256i low = _mm512_castsi512_si256((__m512i)both), high = _mm512_extracti64x4_epi64((__m512i)both, 1);
    const __m512i wide = _mm512_cvtepu16_epi32(low);
    return (Vec)_mm512_or_si512(wide, _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

/* 16 pairs of 32 neighbours. */
INLINE Vec neighbours(Vec first, Vec second) { return (Vec)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first); }

INLINE Vec add_products(Vec sum, Pair left, const float *right) {
    const __m512bh spread = (__m512bh)_mm512_set1_epi32((int)left);
    return (Vec)_mm512_dpbf16_ps((__m512)sum, spread, (__m512bh)*(const Vec *)right);
}
#else
enum { ROUNDS = 0 };
INLINE Vec interleave(Vec first, Vec second) { return first + second; } /* never called */
INLINE Vec neighbours(Vec first, Vec second) { return first + second; }
INLINE Vec add_products(Vec sum, Pair left, const float *right) { return sum + (float)left * *(const Vec *)right; }
#endif

/* Store the pairs of up to 16 numbers each of two rows; the second may be NULL and is 0 then. */
INLINE void store_pairs(Pair *to, const float *first, const float *second, int width) {
    const Vec none = {0};
    store((float *)to, interleave(load(first, width), second ? load(second, width) : none), width);
}

/* One pair, of numbers anywhere. */
INLINE Pair pair_of(float first, float second) {
    const Vec both = interleave((Vec){0} + first, (Vec){0} + second);
    return *(const Pair *)&both;
}
