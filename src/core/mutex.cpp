#include "core/mutex.h"

namespace cortex {

PriorityMutex::PriorityMutex(bool inherits) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  // Where the system has no such protocol this stays an ordinary mutex.
  if (inherits) (void)pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
  pthread_mutex_init(&mutex_, &attributes);
  pthread_mutexattr_destroy(&attributes);
}

}  // namespace cortex
