#define _GNU_SOURCE /* the affinity of threads */
#include "threads.h"

#if defined(_WIN32)

void fastpg_parallel(int parts, int threads, void (*work)(void *context, int part), void *context)
{
    (void)threads;
    for (int part = 0; part < parts; part++) work(context, part);
}

#else

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() atomic_signal_fence(memory_order_seq_cst)
#endif

/* Looks at a flag before asking the kernel to sleep: waking a sleeper costs as much as a small call. About 100 us. */
enum { SPINS = 2000 };

/* One job at a time. A worker joins an open job under the lock and counts itself in `inside`; the caller closes the job and leaves only
 * when nobody is inside, so no worker ever holds a job that is over. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t opened, emptied;
    void (*work)(void *context, int part);
    void *context;
    int parts, vacant, workers; /* vacant: workers that may still join the job */
    pthread_t threads[FASTPG_MOST_THREADS];
    int avoided[FASTPG_MOST_THREADS]; /* the processor that a worker keeps away from, plus 1 */
    atomic_uint job; /* odd while one is open */
    atomic_int next, inside, busy;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER, .emptied = PTHREAD_COND_INITIALIZER};

static void take_parts(void (*work)(void *context, int part), void *context, int parts)
{
    for (int part; (part = atomic_fetch_add(&pool.next, 1)) < parts;) work(context, part);
}

static void *worker(void *unused)
{
    unsigned seen = 0;
    (void)unused;
    for (;;) {
        for (int spin = 0; spin < SPINS; spin++) {
            const unsigned job = atomic_load(&pool.job);
            if (job % 2 && job != seen) break;
            PAUSE();
        }
        pthread_mutex_lock(&pool.lock);
        while (pool.job % 2 == 0 || pool.job == seen || pool.vacant == 0) pthread_cond_wait(&pool.opened, &pool.lock);
        seen = pool.job;
        pool.vacant--;
        atomic_fetch_add(&pool.inside, 1);
        void (*work)(void *, int) = pool.work;
        void *context = pool.context;
        const int parts = pool.parts;
        pthread_mutex_unlock(&pool.lock);
        take_parts(work, context, parts);
        pthread_mutex_lock(&pool.lock);
        if (atomic_fetch_sub(&pool.inside, 1) == 1) pthread_cond_signal(&pool.emptied);
        pthread_mutex_unlock(&pool.lock);
    }
    return NULL;
}

/* A forked child has the memory of the pool but none of its threads. */
static void forget_workers(void)
{
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.opened, NULL);
    pthread_cond_init(&pool.emptied, NULL);
    pool.workers = 0;
    atomic_store(&pool.job, 0);
    atomic_store(&pool.inside, 0);
    atomic_store(&pool.busy, 0);
}

/* Linux wakes a thread on the processor of the one that wakes it and takes milliseconds to move it (measured), which is longer than a
 * job. So the workers of a job are told to keep off the caller's processor, each time that has changed. */
static void keep_off_this_processor(int workers)
{
#ifdef __linux__
    const int here = sched_getcpu();
    cpu_set_t allowed;
    int known = 0;
    for (int i = 0; i < workers; i++) {
        if (here < 0 || pool.avoided[i] == here + 1) continue;
        if (!known && (sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) < 2)) return;
        known = 1;
        CPU_CLR(here, &allowed);
        pthread_setaffinity_np(pool.threads[i], sizeof allowed, &allowed);
        pool.avoided[i] = here + 1;
    }
#else
    (void)workers;
#endif
}

static void start_workers(int wanted)
{
    static atomic_int registered = 0;
    if (!atomic_exchange(&registered, 1)) pthread_atfork(NULL, NULL, forget_workers);
    for (; pool.workers < wanted; pool.workers++) {
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attributes, 2 << 20);
        const int failed = pthread_create(&pool.threads[pool.workers], &attributes, worker, NULL);
        pthread_attr_destroy(&attributes);
        if (failed) return; /* fewer threads do the same work */
        pool.avoided[pool.workers] = 0;
    }
}

void fastpg_parallel(int parts, int threads, void (*work)(void *context, int part), void *context)
{
    const int wanted = (parts < threads ? parts : threads) - 1;
    if (wanted < 1 || atomic_exchange(&pool.busy, 1)) {
        for (int part = 0; part < parts; part++) work(context, part);
        return;
    }
    start_workers(wanted);
    keep_off_this_processor(wanted < pool.workers ? wanted : pool.workers);
    pthread_mutex_lock(&pool.lock);
    pool.work = work;
    pool.context = context;
    pool.parts = parts;
    pool.vacant = wanted;
    atomic_store(&pool.next, 0);
    atomic_fetch_add(&pool.job, 1);
    pthread_cond_broadcast(&pool.opened);
    pthread_mutex_unlock(&pool.lock);
    take_parts(work, context, parts);
    for (int spin = 0; spin < SPINS && atomic_load(&pool.inside); spin++) PAUSE();
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.job, 1);
    while (pool.inside) pthread_cond_wait(&pool.emptied, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    atomic_store(&pool.busy, 0);
}

#endif
