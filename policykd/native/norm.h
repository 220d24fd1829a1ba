#pragma once
#include "vectors.h"

/* Layer normalisation (Ba et al. 2016), then the activation: y = activation(scale * normalised + shift).
 * x (samples, width) becomes `normalised`, and `inverse` takes a sample's 1 / standard deviation, unless NULL. */
void normalise(Int samples, Int width, int activation, const float *scale, const float *shift, float *x,
               float *inverse, float *y);

/* y again, from what `normalise` left: a pass over what is at hand costs less than keeping y costs the cache. */
void activate_normalised(Int samples, Int width, int activation, const float *scale, const float *shift,
                         const float *normalised, float *y);

/* Back: from the gradient of scale * normalised + shift, in place, to that of x; scale's and shift's unless NULL. */
void through_norm(Int samples, Int width, const float *scale, const float *normalised, const float *inverse,
                  float *gradient, float *to_scale, float *to_shift);
