/* A pool of threads that outlives its calls. Started at first use, safe after fork, serial where it is already busy. */
#ifndef FASTPG_THREADS_H
#define FASTPG_THREADS_H

enum { FASTPG_MOST_THREADS = 64 };

/* Calls work(context, 0), ..., work(context, parts - 1), each once, on up to `threads` threads, and returns when all have returned. */
void fastpg_parallel(int parts, int threads, void (*work)(void *context, int part), void *context);

#endif
