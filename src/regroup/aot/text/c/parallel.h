/* What ${name}_run_parallel is given: threads by OpenMP where the compiler has it, else a pool of pthreads.
 *
 *     struct pool pool;
 *     pool_start(&pool, 4);
 *     ${name}_run_parallel(..., 4, pool_for, &pool);
 *     pool_stop(&pool);
 *
 * Written by regroup $version, to be changed: a program that has threads already hands over those.
 */
#ifndef ${NAME}_PARALLEL_H
#define ${NAME}_PARALLEL_H

#include "$name.h"

#ifdef _OPENMP

struct pool {
    int threads;
};

static int pool_start(struct pool *pool, int threads) {
    pool->threads = threads;
    return 1;
}

static void pool_for(void *context, int shares, ${name}_task *task, void *state) {
#pragma omp parallel for schedule(dynamic) num_threads(((struct pool *)context)->threads)
    for (int i = 0; i < shares; i++)
        task(state, i);
}

static void pool_stop(struct pool *pool) { (void)pool; }

#else

#include <pthread.h>

enum { POOL_MOST = 64 };

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    pthread_t threads[POOL_MOST];
    int count, shares, next, left, over; /* threads but the caller's; of the step: shares, taken, not yet done */
    ${name}_task *task;
    void *state;
};

/* Do shares as long as there are any; called with the lock held. */
static void pool_work(struct pool *pool) {
    while (pool->next < pool->shares) {
        int mine = pool->next++;
        ${name}_task *task = pool->task;
        void *state = pool->state;
        pthread_mutex_unlock(&pool->lock);
        task(state, mine);
        pthread_mutex_lock(&pool->lock);
        if (--pool->left == 0)
            pthread_cond_signal(&pool->end);
    }
}

static void *pool_thread(void *context) {
    struct pool *pool = context;
    pthread_mutex_lock(&pool->lock);
    while (!pool->over) {
        pool_work(pool);
        if (!pool->over)
            pthread_cond_wait(&pool->begin, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static void pool_for(void *context, int shares, ${name}_task *task, void *state) {
    struct pool *pool = context;
    pthread_mutex_lock(&pool->lock);
    pool->task = task, pool->state = state;
    pool->shares = pool->left = shares, pool->next = 0;
    pthread_cond_broadcast(&pool->begin);
    pool_work(pool);
    while (pool->left)
        pthread_cond_wait(&pool->end, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static void pool_stop(struct pool *pool) {
    pthread_mutex_lock(&pool->lock);
    pool->over = 1;
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->lock);
    while (pool->count)
        pthread_join(pool->threads[--pool->count], NULL);
    pthread_cond_destroy(&pool->end), pthread_cond_destroy(&pool->begin), pthread_mutex_destroy(&pool->lock);
}

/* Start threads, of which the caller's is one; returns 0 where the system has no more of them. */
static int pool_start(struct pool *pool, int threads) {
    *pool = (struct pool){.count = 0};
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->begin, NULL), pthread_cond_init(&pool->end, NULL);
    while (pool->count < threads - 1 && pool->count < POOL_MOST)
        if (pthread_create(&pool->threads[pool->count], NULL, pool_thread, pool))
            return pool_stop(pool), 0;
        else
            pool->count++;
    return 1;
}

#endif
#endif
