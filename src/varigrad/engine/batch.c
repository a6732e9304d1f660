/* What is computed of a batch in one pass over memory, for the type that REAL stands for. */

#ifndef STRETCH
#define STRETCH 512
#endif

/* r becomes rho r + share * the sum over the samples of grad², and gain is scale / sqrt(r + floor); result is
   grad * gain. Of gain and result one may be missing. Where the sum is not finite, r stays as it is. The samples lie
   `elements` apart; by stretches, so that a gradient is in the cache when it is read the second time. */
LEVELS
static void normalise_REAL(int64_t start, int64_t stop, int64_t samples, int64_t elements, const REAL *restrict grad,
        REAL *restrict r, REAL *restrict gain, REAL *restrict result, const double *numbers) {
    const REAL rho = (REAL)numbers[0], share = (REAL)numbers[1], floor = (REAL)numbers[2], scale = (REAL)numbers[3];
    for (int64_t first = start; first < stop; first += STRETCH) {
        const int64_t count = stop - first < STRETCH ? stop - first : STRETCH;
        REAL sums[STRETCH], gains[STRETCH];
        for (int64_t i = 0; i < count; i++) sums[i] = 0;
        for (int64_t n = 0; n < samples; n++) {
            const REAL *row = grad + n * elements + first;
            for (int64_t i = 0; i < count; i++) sums[i] += row[i] * row[i];
        }
        for (int64_t i = 0; i < count; i++) {
            const REAL fresh = rho * r[first + i] + share * sums[i];
            const REAL kept = fresh < (REAL)INFINITY ? fresh : r[first + i];
            r[first + i] = kept;
            gains[i] = scale / ROOT(kept + floor);
        }
        if (gain) for (int64_t i = 0; i < count; i++) gain[first + i] = gains[i];
        if (result) for (int64_t n = 0; n < samples; n++) {
            const REAL *row = grad + n * elements + first;
            REAL *to = result + n * elements + first;
            for (int64_t i = 0; i < count; i++) to[i] = row[i] * gains[i];
        }
    }
}

void varigrad_normalise_REAL(int64_t start, int64_t stop, int64_t samples, int64_t elements, const REAL *grad, REAL *r,
        REAL *gain, REAL *result, const double *numbers) {
    normalise_REAL(start, stop, samples, elements, grad, r, gain, result, numbers);
}

/* The variance of a sum from the sums of its terms and of their squares: squares becomes more * squares - less * total²,
   and nothing below 0. */
LEVELS
static void spread_REAL(int64_t start, int64_t stop, const REAL *restrict total, REAL *restrict squares, REAL more,
        REAL less) {
    for (int64_t i = start; i < stop; i++) {
        const REAL variance = more * squares[i] - less * (total[i] * total[i]);
        squares[i] = variance < 0 ? 0 : variance;  /* a NaN is passed on */
    }
}

void varigrad_spread_REAL(int64_t start, int64_t stop, const REAL *total, REAL *squares, double more, double less) {
    spread_REAL(start, stop, total, squares, (REAL)more, (REAL)less);
}

/* result is factor * (first - second)². */
LEVELS
static void deviate_REAL(int64_t start, int64_t stop, const REAL *restrict first, const REAL *restrict second,
        REAL *restrict result, REAL factor) {
    for (int64_t i = start; i < stop; i++) {
        const REAL difference = first[i] - second[i];
        result[i] = factor * (difference * difference);
    }
}

void varigrad_deviate_REAL(int64_t start, int64_t stop, const REAL *first, const REAL *second, REAL *result,
        double factor) {
    deviate_REAL(start, stop, first, second, result, (REAL)factor);
}
