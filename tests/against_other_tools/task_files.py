"""Tasks of lm-evaluation-harness that need no network: their questions and their files."""

QUESTIONS = [
    {"question": "the cat sat on a ", "choices": ["mat", "then", "cat then"], "answer": 0},
    {"question": "and then it", "choices": [" ran", " mat", " what else there was"], "answer": 1},
    {"question": "see what else there", "choices": [" was", " the", "  off"], "answer": 0},
    {"question": "off to see", "choices": [" what", " it ran", " sat"], "answer": 2},
    {"question": "there was the", "choices": [" cat", " mat", " was was"], "answer": 1},
]
COMMON = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
test_split: test
fewshot_split: train
doc_to_text: "{{{{question}}}}"
"""
CHOICE = """output_type: multiple_choice
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
CLOZE = """output_type: loglikelihood
doc_to_target: "{{choices[0]}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: perplexity}]
"""
ROLLING = """output_type: loglikelihood_rolling
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
ROLLING_TEXT = 'doc_to_target: "{{question}}{{choices[2]}} and then it ran off to see what"\n'
ANSWER = """output_type: generate_until
doc_to_target: " {{choices[0]}}"
generation_kwargs: {until: ["\\n", "o"], max_gen_toks: 9, do_sample: false}
metric_list: [{metric: exact_match}]
"""
NAMES = ("little_choice", "little_cloze", "little_rolling", "little_answer")
