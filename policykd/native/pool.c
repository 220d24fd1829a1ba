/* A pool of threads that wait for tasks. A task is always done whole by one thread, whichever comes first, so that
 * results do not depend on the number of threads; who calls works too, and never waits for a thread that sleeps. */
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

static const double PAYS = 2e6; /* operations per thread, some 25 microseconds, from which waking it pays */
enum { MOST = 64 };

static pthread_mutex_t calls = PTHREAD_MUTEX_INITIALIZER; /* held by the one caller whom the pool serves */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* of all below */
static pthread_cond_t work = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
static struct {
    void (*run)(void *task, Int index, int worker);
    void *task;
    Int next, count, unfinished;
    int workers;
} job;
static atomic_int threads = 1; /* wanted: set and read by any thread */
static int started = 1;        /* there, the caller counted */

/* Both with `lock` held, which is given back while a task runs. */
static int is_work_for(int worker) { return job.next < job.count && worker < job.workers; }

static void do_next(int worker) {
    const Int index = job.next++;
    pthread_mutex_unlock(&lock);
    job.run(job.task, index, worker);
    pthread_mutex_lock(&lock);
    if (--job.unfinished == 0) pthread_cond_signal(&finished);
}

static void *serve(void *worker) {
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!is_work_for((int)(Int)worker)) pthread_cond_wait(&work, &lock);
        do_next((int)(Int)worker);
    }
    return NULL;
}

/* A forked process has this thread alone. */
static void after_fork(void) {
    pthread_mutex_init(&calls, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&work, NULL);
    pthread_cond_init(&finished, NULL);
    job.next = job.count = 0;
    started = 1;
}

static void start(int wanted) {
    static int prepared = 0;
    if (!prepared) prepared = !pthread_atfork(NULL, NULL, after_fork);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of the program */
    for (pthread_t thread; started < wanted; started++) {
        if (pthread_create(&thread, NULL, serve, (void *)(Int)started)) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Let work be split over so many threads; returns how many it was before. */
__attribute__((visibility("default"))) int set_threads(int number) {
    return atomic_exchange(&threads, number < 1 ? 1 : number > MOST ? MOST : number);
}

int workers_for(Int count, double operations) {
    const double worth = operations / PAYS;
    const int wanted = threads, most = count < wanted ? (int)count : wanted;
    return worth < 2 ? 1 : worth < most ? (int)worth : most > 1 ? most : 1;
}

void parallel(Int count, int workers, void (*run)(void *task, Int index, int worker), void *task) {
    if (workers < 2 || pthread_mutex_trylock(&calls)) { /* or another thread of the program has the pool */
        for (Int index = 0; index < count; index++) run(task, index, 0);
        return;
    }
    start(workers);
    pthread_mutex_lock(&lock);
    job.run = run, job.task = task, job.next = 0, job.count = job.unfinished = count, job.workers = workers;
    pthread_cond_broadcast(&work);
    while (is_work_for(0)) do_next(0);
    while (job.unfinished) pthread_cond_wait(&finished, &lock);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&calls);
}
