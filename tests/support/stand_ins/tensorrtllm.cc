// A stand-in for TensorRT-LLM's Triton backend, for machines without a GPU. It has no model: a script
// says what is written after which prompt. The rest is as in that backend: what a slot must have to
// be loaded, which outputs are written, what a draft, `stop` and the end token lead to.
//
// The script is `script.txt` in the engine's directory, read for each request. It has one entry a
// line, with tokens as numbers and the count of the prompt's tokens before them. The entry with the
// longest prompt that the request's prompt begins with is used; the rest of the request's prompt
// must be how the entry's answer begins:
//
//     vocabulary SIZE                   of the logits, which are 1 for a chosen token and else 0
//     answer COUNT PROMPT... ANSWER...  without the end token
//     hold COUNT PROMPT... ANSWER...    answered only when it is stopped
//     fail COUNT PROMPT... TEXT         an error
//
// A request with end_id -1, which no token ends, would write on for long. It is answered only when it
// is stopped, too.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "triton_backend_api.h"

namespace {

using Tokens = std::vector<int32_t>;
constexpr int kInternal = 1, kInt32 = 8, kInt64 = 9, kFloat32 = 11, kCpu = 0, kFinal = 1, kAll = 1;
constexpr int64_t kBlock = 32;

// Triton's errors travel as exceptions in here, and as its own objects where it calls.
void check(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  std::string text = TRITONSERVER_ErrorMessage(error);
  TRITONSERVER_ErrorDelete(error);
  throw std::runtime_error(text);
}

int64_t now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

// ---- requests

template <typename T>
std::vector<T> read(TRITONBACKEND_Request* request, const char* name) {
  TRITONBACKEND_Input* input = nullptr;
  if (auto* missing = TRITONBACKEND_RequestInput(request, name, &input)) {
    TRITONSERVER_ErrorDelete(missing);  // it is optional: Triton has checked the others
    return {};
  }
  uint32_t buffers = 0;
  check(TRITONBACKEND_InputProperties(
      input, nullptr, nullptr, nullptr, nullptr, nullptr, &buffers));
  std::vector<T> values;
  for (uint32_t index = 0; index < buffers; ++index) {
    const void* buffer = nullptr;
    uint64_t bytes = 0;
    int memory = kCpu;
    int64_t device = 0;
    check(TRITONBACKEND_InputBuffer(input, index, &buffer, &bytes, &memory, &device));
    auto* begin = static_cast<const T*>(buffer);
    values.insert(values.end(), begin, begin + bytes / sizeof(T));
  }
  return values;
}

bool flag(TRITONBACKEND_Request* request, const char* name) {
  auto values = read<uint8_t>(request, name);
  return !values.empty() && values[0];
}

std::string id(TRITONBACKEND_Request* request) {
  const char* text = nullptr;
  check(TRITONBACKEND_RequestId(request, &text));
  return text;
}

std::set<std::string> requested(TRITONBACKEND_Request* request) {
  std::set<std::string> names;
  uint32_t count = 0;
  check(TRITONBACKEND_RequestOutputCount(request, &count));
  for (uint32_t index = 0; index < count; ++index) {
    const char* name = nullptr;
    check(TRITONBACKEND_RequestOutputName(request, index, &name));
    names.insert(name);
  }
  return names;
}

// ---- what is written after a prompt

struct Entry {
  std::string kind, text;
  Tokens prompt, answer;
};

struct Script {
  std::vector<Entry> entries;
  int64_t vocabulary = 0;

  explicit Script(const std::string& path) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      std::istringstream words(line);
      Entry entry;
      int64_t count = 0;
      words >> entry.kind >> count;
      if (entry.kind == "vocabulary") {
        vocabulary = count;
        continue;
      }
      for (int32_t token; count > 0 && words >> token; --count) entry.prompt.push_back(token);
      if (entry.kind == "fail") std::getline(words >> std::ws, entry.text);
      for (int32_t token; words >> token;) entry.answer.push_back(token);
      entries.push_back(entry);
    }
  }

  const Entry& find(const Tokens& prompt) const {
    const Entry* found = nullptr;
    for (auto& entry : entries) {
      bool begins = entry.prompt.size() <= prompt.size() &&
                    std::equal(entry.prompt.begin(), entry.prompt.end(), prompt.begin());
      if (begins && (!found || entry.prompt.size() > found->prompt.size())) found = &entry;
    }
    if (!found) throw std::runtime_error("The script has no answer to this prompt.");
    return *found;
  }
};

struct Answer {
  Tokens ids;     // as they are returned
  Tokens chosen;  // the end token, too: each has logits
  int64_t vocabulary = 0;
  int32_t drafted = 0, accepted = 0, blocks = 0, reused = 0;
  int64_t arrival = 0;
  bool logits = false, log_probs = false, metrics = false, held = false;
};

// ---- the model

struct Instance {
  std::string engine;
  int64_t max_input = 0, max_draft = 0;
  bool exclude_input = false;
  std::set<Tokens> seen;
  struct Held {
    TRITONBACKEND_Request* request;
    Answer answer;
  };
  std::map<std::string, Held> held;
};

// The value of a model parameter. The backend reads these without a default.
std::string parameter(const std::string& config, const std::string& key) {
  auto at = config.find("\"" + key + "\":{\"string_value\":\"");
  if (at == std::string::npos) throw std::runtime_error("Parameter " + key + " is missing.");
  at = config.find('"', config.find("string_value", at) + 13) + 1;
  return config.substr(at, config.find('"', at) - at);
}

int64_t number(const std::string& json, const std::string& key) {
  auto at = json.find("\"" + key + "\":");
  if (at == std::string::npos) throw std::runtime_error("The engine has no " + key + ".");
  return std::stoll(json.substr(at + key.size() + 3));
}

std::unique_ptr<Instance> load(const std::string& config) {
  for (auto* key : {"tokenizer_dir", "xgrammar_tokenizer_info_path", "guided_decoding_backend"})
    parameter(config, key);
  if (parameter(config, "enable_kv_cache_reuse") != "true")
    throw std::runtime_error("External drafts need the reuse of KV cache blocks.");
  auto instance = std::make_unique<Instance>();
  instance->engine = parameter(config, "gpt_model_path");
  instance->exclude_input = parameter(config, "exclude_input_in_output") == "true";
  std::ifstream file(instance->engine + "/config.json");
  if (!file) throw std::runtime_error("Both encoder and decoder model paths are empty");
  std::stringstream built;
  built << file.rdbuf();
  instance->max_input = number(built.str(), "max_input_len");
  instance->max_draft = number(built.str(), "max_draft_len");
  return instance;
}

// With a draft one step: the part that is agreed to and one own token. Without, to the end.
void decode(Answer& answer, Tokens rest, const Tokens& draft, int32_t end, size_t most) {
  rest.push_back(end);
  for (size_t at = 0; at < rest.size() && answer.ids.size() < most; ++at) {
    bool agreed = at < draft.size() && draft[at] == rest[at];
    answer.chosen.push_back(rest[at]);
    if (rest[at] == end) return;
    answer.ids.push_back(rest[at]);
    if (!draft.empty() && !agreed) return;
  }
}

Answer answer_to(Instance& instance, TRITONBACKEND_Request* request) {
  auto outputs = requested(request);
  if (!outputs.count("output_ids") || !outputs.count("sequence_length"))
    throw std::runtime_error("output_ids and sequence_length must both be requested.");
  if (read<int32_t>(request, "runtime_top_k") != Tokens{1})
    throw std::runtime_error("runtime_top_k must be 1, or drafts are not verified greedily.");
  auto prompt = read<int32_t>(request, "input_ids");
  auto draft = read<int32_t>(request, "draft_input_ids");
  auto end = read<int32_t>(request, "end_id");
  auto most = read<int32_t>(request, "request_output_len").at(0);
  int64_t length = prompt.size();
  if (length > instance.max_input)
    throw std::runtime_error("Prompt length (" + std::to_string(length) +
        ") exceeds maximum input length (" + std::to_string(instance.max_input) + ").");
  if (static_cast<int64_t>(draft.size()) > instance.max_draft)
    throw std::runtime_error("The draft is longer than the engine's drafts can be.");
  if (length + static_cast<int64_t>(draft.size()) > instance.max_input)
    draft.resize(instance.max_input - length);  // the backend only logs it

  Script script(instance.engine + "/script.txt");
  auto& entry = script.find(prompt);
  if (entry.kind == "fail") throw std::runtime_error(entry.text);
  Tokens begun(prompt.begin() + entry.prompt.size(), prompt.end());
  if (begun.size() > entry.answer.size() ||
      !std::equal(begun.begin(), begun.end(), entry.answer.begin()))
    throw std::runtime_error("The prompt goes on differently from its answer in the script.");

  Answer answer;
  answer.vocabulary = script.vocabulary;
  answer.drafted = draft.size();
  answer.blocks = (length + most + kBlock - 1) / kBlock;
  if (!instance.seen.insert(entry.prompt).second)
    answer.reused = (entry.prompt.size() - 1) / kBlock;
  answer.logits = outputs.count("generation_logits") && flag(request, "return_generation_logits");
  answer.metrics = flag(request, "return_perf_metrics");
  answer.log_probs = outputs.count("output_log_probs") && flag(request, "return_log_probs");
  answer.held = entry.kind == "hold" || (!end.empty() && end[0] < 0);
  decode(answer, {entry.answer.begin() + begun.size(), entry.answer.end()}, draft,
         end.empty() ? -1 : end[0], most);
  // All returned tokens but the last, also where the last one was drafted.
  if (!draft.empty()) answer.accepted = std::max<int32_t>(answer.ids.size(), 1) - 1;
  if (!instance.exclude_input)
    answer.ids.insert(answer.ids.begin(), prompt.begin(), prompt.end());
  return answer;
}

// ---- responses

void put(TRITONBACKEND_Response* response, const char* name, int type,
         const std::vector<int64_t>& shape, const void* data, size_t bytes) {
  TRITONBACKEND_Output* output = nullptr;
  check(TRITONBACKEND_ResponseOutput(response, &output, name, type, shape.data(), shape.size()));
  void* buffer = nullptr;
  int memory = kCpu;
  int64_t device = 0;
  check(TRITONBACKEND_OutputBuffer(output, &buffer, bytes, &memory, &device));
  if (bytes) std::memcpy(buffer, data, bytes);
}

template <typename T>
void put(TRITONBACKEND_Response* response, const char* name, int type, T value) {
  put(response, name, type, {1, 1}, &value, sizeof value);
}

void put(TRITONBACKEND_Response* response, const Answer& answer) {
  int32_t length = answer.ids.size();
  put(response, "output_ids", kInt32, {1, 1, length}, answer.ids.data(), 4 * length);
  put(response, "sequence_length", kInt32, length);
  if (answer.logits) {
    int64_t rows = answer.chosen.size();
    std::vector<float> logits(rows * answer.vocabulary);
    for (int64_t row = 0; row < rows; ++row)
      logits.at(row * answer.vocabulary + answer.chosen[row]) = 1;
    put(response, "generation_logits", kFloat32, {1, 1, rows, answer.vocabulary}, logits.data(),
        4 * logits.size());
  }
  if (answer.log_probs) {
    // Zeros: where drafts are allowed, the decoder writes none into its cleared buffer.
    std::vector<float> none(length);
    put(response, "output_log_probs", kFloat32, {1, 1, length}, none.data(), 4 * none.size());
  }
  if (!answer.metrics) return;
  // Written whichever are requested: Triton takes them only if config.pbtxt declares them all.
  put(response, "kv_cache_alloc_new_blocks", kInt32, answer.blocks - answer.reused);
  put(response, "kv_cache_reused_blocks", kInt32, answer.reused);
  put(response, "kv_cache_alloc_total_blocks", kInt32, answer.blocks);
  put(response, "arrival_time_ns", kInt64, answer.arrival);
  put(response, "first_scheduled_time_ns", kInt64, answer.arrival);
  put(response, "first_token_time_ns", kInt64, now());
  put(response, "last_token_time_ns", kInt64, now());
  put(response, "acceptance_rate", kFloat32,
      answer.drafted ? static_cast<float>(answer.accepted) / answer.drafted : 0.0F);
  put(response, "total_accepted_draft_tokens", kInt32, answer.accepted);
  put(response, "total_draft_tokens", kInt32, answer.drafted);
}

// Sends the one response of a request, and gives the request back. No answer and no error: an
// acknowledgement.
void send(TRITONBACKEND_Request* request, const Answer* answer, const std::string& failure) {
  TRITONBACKEND_Response* response = nullptr;
  TRITONSERVER_Error* error = nullptr;
  check(TRITONBACKEND_ResponseNew(&response, request));
  try {
    if (!failure.empty()) throw std::runtime_error(failure);
    if (answer) put(response, *answer);
  } catch (const std::exception& thrown) {
    error = TRITONSERVER_ErrorNew(kInternal, thrown.what());
  }
  check(TRITONBACKEND_ResponseSend(response, kFinal, error));
  if (error) TRITONSERVER_ErrorDelete(error);
  check(TRITONBACKEND_RequestRelease(request, kAll));
}

void stop(Instance& instance, TRITONBACKEND_Request* request) {
  auto found = instance.held.find(id(request));
  if (found != instance.held.end()) {
    std::fprintf(stderr, "stand-in: stopped %s\n", found->first.c_str());
    send(found->second.request, &found->second.answer, "");
    instance.held.erase(found);
  }
  send(request, nullptr, "");
}

void serve(Instance& instance, TRITONBACKEND_Request* request) {
  if (flag(request, "stop")) return stop(instance, request);
  Answer answer;
  int64_t arrival = now();
  try {
    answer = answer_to(instance, request);
  } catch (const std::exception& refused) {
    return send(request, nullptr, refused.what());
  }
  answer.arrival = arrival;
  if (answer.held) {
    instance.held[id(request)] = {request, answer};
    return;
  }
  send(request, &answer, "");
}

Instance* state(TRITONBACKEND_ModelInstance* of) {
  void* found = nullptr;
  check(TRITONBACKEND_ModelInstanceState(of, &found));
  return static_cast<Instance*>(found);
}

template <typename Work>
TRITONSERVER_Error* guarded(Work work) {
  try {
    work();
  } catch (const std::exception& thrown) {
    return TRITONSERVER_ErrorNew(kInternal, thrown.what());
  }
  return nullptr;
}

}  // namespace

// What Triton calls.
#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(
    TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] {
    TRITONBACKEND_Model* model = nullptr;
    TRITONSERVER_Message* message = nullptr;
    const char* text = nullptr;
    size_t bytes = 0;
    check(TRITONBACKEND_ModelInstanceModel(instance, &model));
    check(TRITONBACKEND_ModelConfig(model, 1, &message));
    check(TRITONSERVER_MessageSerializeToJson(message, &text, &bytes));
    std::string config(text, bytes);
    check(TRITONSERVER_MessageDelete(message));
    check(TRITONBACKEND_ModelInstanceSetState(instance, load(config).release()));
  });
}

EXPORTED TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, uint32_t count) {
  return guarded([&] {
    for (uint32_t index = 0; index < count; ++index) serve(*state(instance), requests[index]);
  });
}

EXPORTED TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(
    TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] {
    std::unique_ptr<Instance> last(state(instance));
    if (!last) return;  // it was not loaded
    for (auto& [name, held] : last->held) send(held.request, nullptr, "The model was unloaded.");
  });
}
