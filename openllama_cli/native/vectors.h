/* Vectors of LANES floats, the same functions in every tier, so that each kernel is written once. */

#pragma once

#ifdef AVX512
#include "lanes_avx512.h"
#else
#include "lanes_avx2.h"
#endif

/* exp(x) within 2 units in the last place, with the polynomial of Cephes' expf (Moshier 1992). NaN stays NaN. */
INLINE floats exponential(floats x) {
    x = larger(set1(-104), smaller(set1(89), x)); /* these return their second argument if that is NaN */
    const floats n = nearest(x * set1(1.44269504088896341f));
    floats r = fnmadd(n, set1(0.693359375f), x);
    r = fnmadd(n, set1(-2.12194440e-4f), r);
    floats p = set1(1.9875691500e-4f);
    p = fmadd(p, r, set1(1.3981999507e-3f));
    p = fmadd(p, r, set1(8.3334519073e-3f));
    p = fmadd(p, r, set1(4.1665795894e-2f));
    p = fmadd(p, r, set1(1.6666665459e-1f));
    p = fmadd(p, r, set1(5.0000001201e-1f));
    p = fmadd(p, r * r, r + set1(1));
    return scale_by_power(p, n);
}
