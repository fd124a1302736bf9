set(_train_sources train_main.cpp run_program.cpp train_flags.cpp train_cmd_train.cpp train_cmd_score.cpp
                   train_cmd_adapt.cpp train_cmd_pretrain.cpp train_cmd_import.cpp train_cmd_compare.cpp)
list(TRANSFORM _train_sources PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
add_executable(cortex-train ${_train_sources})
target_link_libraries(cortex-train PRIVATE cortex::configuration cortex::core cortex::data
                      cortex::model cortex::train CLI11::CLI11 fmt::fmt)
target_compile_definitions(cortex-train PRIVATE CORTEX_VERSION="${PROJECT_VERSION}")
cortex_target_defaults(cortex-train)
