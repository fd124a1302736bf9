#pragma once

#include "train/setup.h"

namespace cortex::train {

/// What a run was made of, as one JSON object: options, model configuration, git revision, and of
/// every recording its name, size and digest. In every checkpoint, in `run.json` and, without the
/// model's configuration, in every exported model.
std::string run_record(const TrainOptions& options, const ModelConfig* config,
                       const Timeline& training);

/// The revision that this library was built from; "unknown" outside a repository.
const char* source_revision();

/// What a person wants to know of an exported model, in Markdown.
struct ModelCard {
  const ModelConfig& config;
  const TrainOptions& options;
  const Timeline& training;
  std::int64_t parameters = 0;
  std::int64_t iteration = 0;
  double seconds = 0;
  std::string device;
  bool scored = false;
  R2 score;  ///< on options.data.val_split
};
std::string model_card(const ModelCard& card);
/// `model.safetensors` has its card in `model.card.md`.
std::string card_path(const std::string& model);

}  // namespace cortex::train
