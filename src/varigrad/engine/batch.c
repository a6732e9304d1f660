/* What is computed of a batch in one pass over memory, for the type that REAL stands for. */

#ifndef STRETCH
#define STRETCH 512
#endif

#ifndef DIVIDED
#define DIVIDED
/* Work on `count` things, in words of 64 bits as batch.py lays them out; what it is done with follows. */
typedef struct {
    int64_t parts;
    _Atomic int64_t asked;  /* how often a thread has asked for a part */
    int64_t count;
} divided;

/* The part that is next, for whichever thread asks first; 0 where there is none. */
static inline int next_part(divided *all, int64_t *start, int64_t *stop) {
    const int64_t part = atomic_fetch_add_explicit(&all->asked, 1, memory_order_relaxed);
    *start = all->count * part / all->parts, *stop = all->count * (part + 1) / all->parts;
    return part < all->parts;
}
#endif

/* The sums over the samples, which lie `elements` apart, of grad² at `count` places; four samples at a time, because
   memory answers several questions at once. */
LEVELS
static void squares_REAL(int64_t count, int64_t samples, int64_t elements, const REAL *restrict grad,
        REAL *restrict sums) {
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++) sums[i] = 0;
    for (; n + 4 <= samples; n += 4) {
        const REAL *a = grad + n * elements, *b = a + elements, *c = b + elements, *d = c + elements;
        for (int64_t i = 0; i < count; i++) sums[i] += (a[i] * a[i] + b[i] * b[i]) + (c[i] * c[i] + d[i] * d[i]);
    }
    for (; n < samples; n++) {
        const REAL *row = grad + n * elements;
        for (int64_t i = 0; i < count; i++) sums[i] += row[i] * row[i];
    }
}

struct squares_REAL { divided elements; int64_t samples; const REAL *grad; REAL *sums; };

void varigrad_squares_REAL(struct squares_REAL *all) {
    for (int64_t start, stop; next_part(&all->elements, &start, &stop);)
        squares_REAL(stop - start, all->samples, all->elements.count, all->grad + start, all->sums + start);
}

/* result is more * the sum over the samples of (term - less * total)². */
LEVELS
static void deviations_REAL(int64_t start, int64_t stop, int64_t samples, int64_t elements, const REAL *restrict terms,
        const REAL *restrict total, REAL *restrict result, REAL more, REAL less) {
    for (int64_t first = start; first < stop; first += STRETCH) {
        const int64_t count = stop - first < STRETCH ? stop - first : STRETCH;
        REAL means[STRETCH], sums[STRETCH];
        for (int64_t i = 0; i < count; i++) means[i] = less * total[first + i], sums[i] = 0;
        for (int64_t n = 0; n < samples; n++) {
            const REAL *row = terms + n * elements + first;
            for (int64_t i = 0; i < count; i++) sums[i] += (row[i] - means[i]) * (row[i] - means[i]);
        }
        for (int64_t i = 0; i < count; i++) result[first + i] = more * sums[i];
    }
}

struct deviations_REAL {
    divided elements; int64_t samples; const REAL *terms, *total; REAL *result; const double *more_less;
};

void varigrad_deviations_REAL(struct deviations_REAL *all) {
    for (int64_t start, stop; next_part(&all->elements, &start, &stop);)
        deviations_REAL(start, stop, all->samples, all->elements.count, all->terms, all->total, all->result,
                (REAL)all->more_less[0], (REAL)all->more_less[1]);
}

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
        squares_REAL(count, samples, elements, grad + first, sums);
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

struct normalise_REAL {
    divided elements; int64_t samples; const REAL *grad; REAL *r, *gain, *result; const double *numbers;
};

void varigrad_normalise_REAL(struct normalise_REAL *all) {
    for (int64_t start, stop; next_part(&all->elements, &start, &stop);)
        normalise_REAL(start, stop, all->samples, all->elements.count, all->grad, all->r, all->gain, all->result,
                all->numbers);
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

struct spread_REAL { divided elements; const REAL *total; REAL *squares; const double *more_less; };

void varigrad_spread_REAL(struct spread_REAL *all) {
    for (int64_t start, stop; next_part(&all->elements, &start, &stop);)
        spread_REAL(start, stop, all->total, all->squares, (REAL)all->more_less[0], (REAL)all->more_less[1]);
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

struct deviate_REAL { divided elements; const REAL *first, *second; REAL *result; const double *factor; };

void varigrad_deviate_REAL(struct deviate_REAL *all) {
    for (int64_t start, stop; next_part(&all->elements, &start, &stop);)
        deviate_REAL(start, stop, all->first, all->second, all->result, (REAL)*all->factor);
}
