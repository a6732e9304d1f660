/* What all rules share: counting steps, and reading and writing arrays of 16 bits.

   Such arrays are widened to float32 and narrowed again block by block, in the nearest cache. The integer arithmetic is
   that of rounding.py, bit for bit. */

#include <math.h>
#include <stdatomic.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
/* AVX-512 with its operations on 16 bits: with avx512f alone, halving numbers takes twice as long. */
#define LEVELS __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define LEVELS __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define LEVELS
#endif

#define BLOCK 256
#define STRETCH 1024
#define ARRAYS 16

enum { FLOAT32, BFLOAT16, FLOAT16 };

typedef void run_function(int64_t start, int64_t stop, void *const *arrays, int64_t step, const double *numbers,
        double *sums);
typedef void halve_function(int64_t start, int64_t stop, void *const *arrays, int64_t step, const double *numbers,
        double *sums, uint32_t first, uint32_t seed);

typedef union { float number; uint32_t bits; } word;

/* A step of many tensors, in words of 64 bits as fused.py lays them out. */
typedef struct {
    int64_t threads;
    _Atomic int64_t asked;      /* how often a thread has asked for a portion */
    int64_t portions;
    const int64_t *ends;        /* of portions, as numbers of spans */
    const int64_t *spans;       /* each a tensor's number, its first element and its end */
    int64_t tensors;
    void *const *pointers;      /* pointers[array][tensor] */
    const double *numbers;      /* the rule's scalars for each tensor, `stride` apart; for all if that is 0 */
    int64_t stride;
    double *sums;               /* the rule's statistics of each span */
    const int64_t *types;       /* how each array is stored; from here on only where some have 16 bits */
    const int64_t *lanes;       /* of arrays that are rounded stochastically, below 0 of others */
    int64_t compensated;        /* whether one more array holds what the parameter's own cannot */
    int64_t step;
    const int64_t *firsts;      /* the place of each tensor's first element, for the random numbers */
} work;

/* Which portion is next, for whichever thread asks first: one that the machine slows down does less. Neighbours in time
   are far apart in memory, so that each thread goes through a stretch of its own while all are equally fast. */
static inline int64_t next_portion(work *all) {
    const int64_t stretch = (all->portions + all->threads - 1) / all->threads;
    for (;;) {
        const int64_t k = atomic_fetch_add_explicit(&all->asked, 1, memory_order_relaxed);
        const int64_t portion = k % all->threads * stretch + k / all->threads;
        if (k >= stretch * all->threads) return all->portions;
        if (portion < all->portions) return portion;
    }
}

/* One number of each tensor: adds one to it, reads it, writes it. */
void varigrad_advance(int64_t tensors, float *const *steps, double *counts) {
    for (int64_t k = 0; k < tensors; k++) counts[k] = *steps[k] += 1;
}

void varigrad_read(int64_t tensors, const float *const *places, double *numbers) {
    for (int64_t k = 0; k < tensors; k++) numbers[k] = *places[k];
}

void varigrad_write(int64_t tensors, float *const *places, const double *numbers) {
    for (int64_t k = 0; k < tensors; k++) *places[k] = (float)numbers[k];
}

static inline uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

/* A word of random bits serves three arrays: rounding.py says how. A lane below zero is not rounded at random. */
static inline uint32_t key_of(uint32_t seed, int64_t lane) { return mix(seed + (uint32_t)(lane + 2) / 3); }
static inline uint32_t lower(uint32_t word) { return word & 0xFFFF; }
static inline uint32_t upper(uint32_t word) { return word >> 16; }
static inline uint32_t both(uint32_t word) { return lower(word + upper(word)); }
static inline uint32_t part_of(uint32_t word, int64_t lane) {
    const int64_t part = (lane + 2) % 3;
    return part == 0 ? lower(word) : part == 1 ? both(word) : upper(word);
}

static inline float widened_bfloat16(uint16_t half) {
    const word w = {.bits = (uint32_t)half << 16};
    return w.number;
}

/* In its upper half, a number rounded up or down by 16 random bits. */
static inline uint32_t rounded_bfloat16(float number, uint32_t random) {
    const word w = {.number = number};
    /* A NaN stays one, and infinity too: its lower half is zero. */
    return number != number ? w.bits | 0x400000 : w.bits + random;
}

LEVELS
static void widen_bfloat16(const uint16_t *restrict from, float *restrict to, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = widened_bfloat16(from[i]);
}

LEVELS
static void widen_float16(const uint16_t *restrict from, float *restrict to, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const uint32_t sign = (uint32_t)(from[i] & 0x8000) << 16, size = from[i] & 0x7FFF;
        const word small = {.number = (float)(int32_t)size * 0x1p-24f};  /* below 2^-14 */
        const uint32_t large = (size << 13) + (size < 0x7C00 ? 112u << 23 : 224u << 23);
        const word w = {.bits = sign | (size < 0x400 ? small.bits : large)};
        to[i] = w.number;
    }
}

/* To the nearest where `lane` is below 0; else up or down by 16 random bits for each element, numbered from `first`. At
   most a block: words of 32 bits are computed first and halved in a loop of their own, because compilers make poor
   vector code of both at once. */
LEVELS
static void narrow_bfloat16(const float *restrict from, uint16_t *restrict to, int64_t count, int64_t lane,
        uint32_t key, uint32_t first) {
    uint32_t words[BLOCK];
    for (int64_t i = 0; i < count; i++) {
        const word w = {.number = from[i]};
        const uint32_t nearest = w.number != w.number ? w.bits | 0x400000 : w.bits + 0x7FFF + ((w.bits >> 16) & 1);
        const uint32_t random = part_of(mix((first + (uint32_t)i) ^ key), lane);
        words[i] = lane < 0 ? nearest : rounded_bfloat16(from[i], random);
    }
    for (int64_t i = 0; i < count; i++) to[i] = words[i] >> 16;
}

LEVELS
static void narrow_float16(const float *restrict from, uint16_t *restrict to, int64_t count, int64_t lane,
        uint32_t key, uint32_t first) {
    uint32_t words[BLOCK];
    for (int64_t i = 0; i < count; i++) {
        const word w = {.number = from[i]};
        const uint32_t sign = (w.bits >> 16) & 0x8000;
        const word size = {.bits = w.bits & 0x7FFFFFFF};
        const int small = size.number < 0x1p-14f;
        uint32_t half;
        if (lane >= 0) {
            const word shifted = {.number = size.number + (small ? 0x1p-14f : 0.0f)};
            const uint32_t up = shifted.bits + (part_of(mix((first + (uint32_t)i) ^ key), lane) >> 3);
            half = (up >> 13) - (small ? 113 << 10 : 112 << 10);
        } else {
            const word shifted = {.number = size.number + 0.5f};  /* rounds to a multiple of 2^-24 */
            const uint32_t up = size.bits + 0xFFF + ((size.bits >> 13) & 1);
            half = small ? shifted.bits - 0x3F000000 : (up >> 13) - (112 << 10);
        }
        half = half > 0x7C00 || size.bits >= 0x47800000 ? 0x7C00 : half;
        words[i] = sign | (size.bits > 0x7F800000 ? 0x7E00 : half);
    }
    for (int64_t i = 0; i < count; i++) to[i] = words[i];
}

static void widen(int type, const void *from, int64_t start, float *to, int64_t count) {
    (type == BFLOAT16 ? widen_bfloat16 : widen_float16)((const uint16_t *)from + start, to, count);
}

static void narrow(int type, const float *from, void *to, int64_t start, int64_t count, int64_t lane, uint32_t key,
        int64_t first) {
    (type == BFLOAT16 ? narrow_bfloat16 : narrow_float16)(
            from, (uint16_t *)to + start, count, lane, key, (uint32_t)(first + start));
}

/* Runs a rule on arrays of which some have 16 bits. The first `written` arrays but the second, the gradient, get new
   values. */
static void run_mixed(run_function *run, halve_function *halve, int arrays, int written, int statistics,
        const work *all, int64_t first_span, int64_t last_span) {
    const int64_t *const types = all->types, *const lanes = all->lanes, tensors = all->tensors;
    const int compensated = all->compensated != 0;
    _Alignas(64) float blocks[ARRAYS][BLOCK];
    _Alignas(64) float rest[BLOCK];
    /* The commonest mixture has a loop of its own. */
    const uint32_t seed = mix((uint32_t)all->step);
    int halved = !compensated && written > 2;
    for (int a = 0; a < arrays; a++)
        halved &= a < 2 || a >= written ? types[a] == FLOAT32 : types[a] == BFLOAT16 && lanes[a] == a - 1;
    const int64_t most = !halved ? BLOCK : statistics ? STRETCH : 1 << 30;
    for (int64_t k = first_span; k < last_span; k++) {
        const int64_t *const span = all->spans + 3 * k;
        double *const sums = all->sums + k * statistics;
        const double *const numbers = all->numbers + span[0] * all->stride;
        void *const *const tensor = all->pointers + span[0];
        void *const remainder = compensated ? tensor[arrays * tensors] : 0;
        for (int64_t start = span[1]; start < span[2]; start += most) {
            const int64_t count = span[2] - start < most ? span[2] - start : most;
            if (halved) {
                halve(start, start + count, tensor, tensors, numbers, sums,
                        (uint32_t)all->firsts[span[0]], seed);
                continue;
            }
            void *here[ARRAYS];
            for (int a = 0; a < arrays; a++) {
                here[a] = types[a] == FLOAT32 ? (float *)tensor[a * tensors] + start : blocks[a];
                if (types[a] != FLOAT32) widen(types[a], tensor[a * tensors], start, blocks[a], count);
            }
            if (compensated) {
                widen(types[0], remainder, start, rest, count);
                for (int64_t i = 0; i < count; i++) blocks[0][i] += rest[i];
            }
            run(0, count, here, 1, numbers, sums);
            for (int a = 0; a < written; a++) {
                if (a == 1 || types[a] == FLOAT32) continue;
                narrow(types[a], blocks[a], tensor[a * tensors], start, count, lanes[a], key_of(seed, lanes[a]),
                        all->firsts[span[0]]);
            }
            if (compensated) {
                widen(types[0], tensor[0], start, rest, count);
                for (int64_t i = 0; i < count; i++) rest[i] = blocks[0][i] - rest[i];
                narrow(types[0], rest, remainder, start, count, -1, 0, 0);
            }
        }
    }
}
