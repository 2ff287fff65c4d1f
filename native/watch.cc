// SPDX-License-Identifier: MIT
#include "watch.h"

#include <uv.h>

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "values.h"

namespace oomlab {

// A descriptor watched on Node's loop. It deletes itself once libuv has let go of its handle.
struct Watch {
  uv_poll_t handle;
  Environment* environment;
  Napi::FunctionReference callback;
  std::unique_ptr<Napi::AsyncContext> context;
  std::function<Napi::Value(Napi::Env)> take;
  bool closing = false;
};

struct Environment {
  napi_env env;
  uv_loop_t* loop = nullptr;
  std::set<Watch*> watches;
  size_t open_handles = 0;
  napi_async_cleanup_hook_handle cleanup = nullptr;
  bool closing = false;
};

namespace {

void FinishCleanup(Environment* environment) {
  if (!environment->closing || environment->open_handles > 0) return;
  napi_remove_async_cleanup_hook(environment->cleanup);
  delete environment;
}

void CloseWatch(Watch* watch) {
  if (watch->closing) return;
  watch->closing = true;
  watch->environment->watches.erase(watch);
  watch->callback.Reset();
  watch->context.reset();
  uv_poll_stop(&watch->handle);
  uv_close(reinterpret_cast<uv_handle_t*>(&watch->handle), [](uv_handle_t* handle) {
    auto* watch = static_cast<Watch*>(handle->data);
    Environment* environment = watch->environment;
    delete watch;
    --environment->open_handles;
    FinishCleanup(environment);
  });
}

void CleanUp(napi_async_cleanup_hook_handle, void* data) {
  auto* environment = static_cast<Environment*>(data);
  environment->closing = true;
  while (!environment->watches.empty()) CloseWatch(*environment->watches.begin());
  FinishCleanup(environment);
}

// A callback from libuv has no JavaScript below it: what it throws is an uncaught exception.
void Call(napi_env env, const Napi::FunctionReference& callback, napi_async_context context,
          size_t count, const napi_value* arguments) {
  napi_value global;
  napi_get_global(env, &global);
  const napi_status status =
      napi_make_callback(env, context, global, callback.Value(), count, arguments, nullptr);
  if (status != napi_pending_exception) return;
  napi_value error;
  if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
}

Watch* StartWatch(const Napi::CallbackInfo& info, int fd, int events, Napi::Function callback,
                  const char* name, uv_poll_cb on_event) {
  auto* environment = static_cast<Environment*>(info.Data());
  auto* watch = new Watch;
  int error =
      environment->closing ? UV_ECANCELED : uv_poll_init(environment->loop, &watch->handle, fd);
  if (error != 0) {
    delete watch;
    throw SystemError(info.Env(), "", "poll", -error);
  }
  watch->handle.data = watch;
  watch->environment = environment;
  ++environment->open_handles;
  environment->watches.insert(watch);
  watch->callback = Napi::Persistent(callback);
  watch->context = std::make_unique<Napi::AsyncContext>(info.Env(), name);
  error = uv_poll_start(&watch->handle, events, on_event);
  if (error != 0) {
    CloseWatch(watch);
    throw SystemError(info.Env(), "", "poll", -error);
  }
  return watch;
}

void OnReadableOnce(uv_poll_t* handle, int, int) {
  auto* watch = static_cast<Watch*>(handle->data);
  napi_env env = watch->environment->env;
  // Stopped before its descriptor is closed, so that the loop never polls a reused number.
  uv_poll_stop(handle);
  Napi::HandleScope scope(env);
  const napi_value argument = watch->take(env);
  if (!argument) {
    uv_poll_start(handle, UV_READABLE, OnReadableOnce);
    return;
  }
  Call(env, watch->callback, *watch->context, 1, &argument);
  CloseWatch(watch);
}

void OnEvent(uv_poll_t* handle, int, int) {
  auto* watch = static_cast<Watch*>(handle->data);
  napi_env env = watch->environment->env;
  Napi::HandleScope scope(env);
  Call(env, watch->callback, *watch->context, 0, nullptr);
}

}  // namespace

Environment* NewEnvironment(napi_env env) {
  auto* environment = new Environment;
  environment->env = env;
  napi_get_uv_event_loop(env, &environment->loop);
  napi_add_async_cleanup_hook(env, CleanUp, environment, &environment->cleanup);
  return environment;
}

Napi::Value Poll(const Napi::CallbackInfo& info) {
  const int fd = ToInt(info[0], "fd");
  const std::string event = ToText(info[1], "event");
  Napi::Function callback = ToFunction(info[2], "callback");
  if (event != "readable" && event != "priority") {
    Reject(info.Env(), "event", "readable or priority");
  }
  const int events = event == "readable" ? UV_READABLE : UV_PRIORITIZED;
  Watch* watch = StartWatch(info, fd, events, callback, "oomlab.poll", OnEvent);
  Environment* environment = watch->environment;
  Napi::Object result = Napi::Object::New(info.Env());
  // The watch may be gone (environment teardown), and a later one may live at its address.
  auto open = std::make_shared<bool>(true);
  result.Set("close",
             Napi::Function::New(info.Env(), [watch, environment, open](const Napi::CallbackInfo&) {
               if (!*open) return;
               *open = false;
               if (environment->watches.count(watch)) CloseWatch(watch);
             }));
  return result;
}

void WatchOnce(const Napi::CallbackInfo& info, int fd, const char* name, Napi::Function callback,
               std::function<Napi::Value(Napi::Env)> take) {
  StartWatch(info, fd, UV_READABLE, callback, name, OnReadableOnce)->take = std::move(take);
}

}  // namespace oomlab
