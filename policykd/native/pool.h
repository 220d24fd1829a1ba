#pragma once
#include "vectors.h"

/* How many threads shall run `count` tasks that need so many floating-point operations (or as long) together. */
int workers_for(Int count, double operations);

/* run(task, index, worker) for all indices below `count`, by this thread, which is worker 0, and workers - 1 others. */
void parallel(Int count, int workers, void (*run)(void *task, Int index, int worker), void *task);
