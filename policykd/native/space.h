#pragma once
#include "vectors.h"

/* So many numbers, in whole lines of the cache. */
Int whole_lines(Int numbers);

/* Working space at the beginning of a cache line: vectors that cross lines take twice the time. NULL without memory. */
float *space(Int numbers);
void give_back(float *numbers);
