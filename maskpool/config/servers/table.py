"""The facts about servers, one table for checks, conversions and the documentation.

The first row of a server that fits decides an aspect. How to run the readers of rows that say ``Known.RUN``:
``python -m benchmarks.server_readers`` names the packages and the code.
"""

from __future__ import annotations

from maskpool.config.servers.rows import (
    ALWAYS,
    BERT,
    BOTH_TRANSFORMER_KEYS,
    CLS,
    CLS_BY_DEFAULT,
    CLS_MEAN_LAST,
    CLS_MEAN_LAST_MAX,
    FITS_TOKENIZER,
    GGUF,
    GIVEN,
    GIVEN_FITS,
    HAS_LONG_TEXTS,
    HAS_MAX_LENGTH,
    HOST_FILES,
    HOST_MODE,
    LAST,
    MEAN,
    NEW_NORMALIZE,
    NEW_PATHS,
    NO_MAX_LENGTH,
    NO_OLD_KEYS,
    NO_ONNX,
    NO_TOKENIZER,
    NORMALIZE_DIFFERS,
    NORMALIZE_MATCHES,
    NORMALIZED,
    NOT_GGUF,
    NOT_GIVEN,
    NOT_NORMALIZED,
    OLD_PATHS,
    OTHER_FOLDER,
    OUR_FILES,
    PADS_RIGHT,
    SAVED_CLS_MEAN_LAST,
    SAVED_MEAN_SQRT,
    SEVERAL,
    Aspect,
    Known,
    Row,
    Server,
    Verdict,
)

SAME, CALLER, DEPENDS, UNKNOWN, DIFFERENT, FAILS = (
    Verdict.SAME,
    Verdict.CALLER,
    Verdict.DEPENDS,
    Verdict.UNKNOWN,
    Verdict.DIFFERENT,
    Verdict.FAILS,
)
RUN, READ = Known.RUN, Known.READ
_TODAY = "2026-11-28"
_CONVERT = "`maskpool config convert FOLDER OUT --for {server}`"
_PROMPT_TOKENS = "pools the tokens of a prompt with those of the text"
_SPECIAL = "pools the tokens that the tokenizer adds with those of the text"
_NO_PROMPT = "adds no prompt"
_PREPEND = "send each text with the prompt {prompt!r} in front"
_LOWER = "lower-case texts before they are sent"


def _always_different(source: str, date: str, known: Known = READ, *, special: str = "") -> tuple[Row, ...]:
    """Rows for settings of the pooling that only sentence-transformers and maskpool read."""
    return (
        Row(Aspect.PROMPT_TOKENS, ALWAYS, DIFFERENT, _PROMPT_TOKENS, source=source, date=date, known=known),
        Row(Aspect.SPECIAL_TOKENS, ALWAYS, DIFFERENT, _SPECIAL, special, source=source, date=date, known=known),
    )


def _caller_pooling(flag: str, source: str, date: str, known: Known) -> tuple[Row, ...]:
    """Rows for a server whose caller names the pooling."""
    fit = (CLS_MEAN_LAST, GIVEN_FITS)
    return (
        Row(Aspect.POOLING, fit, SAME, "", source=source, date=date, known=known),
        Row(Aspect.POOLING, (GIVEN,), DIFFERENT, "{given}, as passed", flag, source=source, date=date, known=known),
    )


_TEI = "https://github.com/huggingface/text-embeddings-inference/blob/0d124dc/router/src/lib.rs"
_TEI_BACKEND = "https://github.com/huggingface/text-embeddings-inference/blob/0d124dc/backends/src/lib.rs"
_TEI_DATE = "2026-07-24"
_TEI_FLAG = "`--pooling {name}`"
TEXT_EMBEDDINGS_INFERENCE = Server(
    "text-embeddings-inference",
    "text-embeddings-inference",
    "1.9.1",
    "1.9.3",
    (
        Row(Aspect.FILES, (GGUF,), FAILS, "reads no GGUF files", source=_TEI, date=_TEI_DATE),
        Row(Aspect.FILES, (NO_TOKENIZER,), FAILS, "needs a tokenizer.json", source=_TEI, date=_TEI_DATE),
        Row(
            Aspect.FILES,
            (NOT_GIVEN, NO_OLD_KEYS),
            FAILS,
            "stops at 1_Pooling/config.json, which must have pooling_mode_cls_token and pooling_mode_mean_tokens",
            convert=_CONVERT,
            source=f"{_TEI}#L486",
            date=_TEI_DATE,
        ),
        Row(
            Aspect.FILES,
            (NO_MAX_LENGTH,),
            FAILS,
            "stops at sentence_bert_config.json, which must have max_seq_length",
            convert=_CONVERT,
            source=f"{_TEI}#L510",
            date=_TEI_DATE,
        ),
        Row(
            Aspect.FILES,
            (NOT_GIVEN, OTHER_FOLDER),
            DIFFERENT,
            "reads the pooling from the folder 1_Pooling only; without it, BERT-like encoders are pooled by cls",
            _TEI_FLAG,
            source=f"{_TEI}#L446",
            date=_TEI_DATE,
        ),
        Row(Aspect.FILES, ALWAYS, SAME, source=_TEI, date=_TEI_DATE),
        Row(Aspect.LAYER, ALWAYS, DIFFERENT, "pools the last hidden state", source=_TEI_BACKEND, date=_TEI_DATE),
        Row(
            Aspect.POOLING,
            (LAST, BERT),
            DEPENDS,
            "the last token on a GPU with flash attention; on a CPU, BERT-like encoders refuse it",
            source="https://github.com/huggingface/text-embeddings-inference/blob/0d124dc/backends/candle/src/models/bert.rs#L653",
            date=_TEI_DATE,
        ),
        *_caller_pooling(_TEI_FLAG, f"{_TEI}#L440", _TEI_DATE, READ),
        Row(
            Aspect.POOLING,
            (SEVERAL,),
            DIFFERENT,
            "one of several modes: the first of cls, mean and lasttoken",
            source=f"{_TEI}#L496",
            date=_TEI_DATE,
        ),
        Row(Aspect.POOLING, (SAVED_CLS_MEAN_LAST,), SAME, source=f"{_TEI}#L496", date=_TEI_DATE),
        Row(
            Aspect.POOLING,
            (MEAN, SAVED_MEAN_SQRT),
            FAILS,
            "stops at 1_Pooling/config.json: the pooling is not supported",
            "`--pooling mean` gives the same vectors of unit length",
            source=f"{_TEI}#L506",
            date=_TEI_DATE,
        ),
        Row(
            Aspect.POOLING,
            ALWAYS,
            FAILS,
            "stops at 1_Pooling/config.json: the pooling is not supported",
            source=f"{_TEI}#L506",
            date=_TEI_DATE,
        ),
        *_always_different(_TEI, _TEI_DATE),
        Row(Aspect.DENSE, (OLD_PATHS,), SAME, source=f"{_TEI_BACKEND}#L816", date=_TEI_DATE),
        Row(
            Aspect.DENSE,
            ALWAYS,
            DIFFERENT,
            "drops {dense} with a warning, because it knows the class paths of 5.3 only",
            convert=_CONVERT,
            source=f"{_TEI_BACKEND}#L816",
            date=_TEI_DATE,
        ),
        Row(Aspect.UNIT_LENGTH, (NORMALIZE_MATCHES,), SAME, source=_TEI, date=_TEI_DATE),
        Row(Aspect.UNIT_LENGTH, (NORMALIZE_DIFFERS,), DIFFERENT, "as asked", source=_TEI, date=_TEI_DATE),
        Row(Aspect.UNIT_LENGTH, (NORMALIZED,), SAME, source=_TEI, date=_TEI_DATE),
        Row(
            Aspect.UNIT_LENGTH,
            ALWAYS,
            CALLER,
            "vectors of length 1 unless the request says otherwise; always on /v1/embeddings",
            'send `{{"normalize": false}}` to `/embed`',
            source="https://github.com/huggingface/text-embeddings-inference/blob/0d124dc/router/src/http/types.rs#L434",
            date=_TEI_DATE,
        ),
        Row(
            Aspect.DIMENSIONS,
            ALWAYS,
            CALLER,
            "all dimensions",
            'send `{{"dimensions": {dimensions}}}`',
            source=_TEI,
            date=_TEI_DATE,
        ),
        Row(Aspect.PROMPT, ALWAYS, CALLER, _NO_PROMPT, "`--default-prompt {prompt!r}`", source=_TEI, date=_TEI_DATE),
        Row(Aspect.CASE, ALWAYS, DIFFERENT, "ignores do_lower_case", _LOWER, source=f"{_TEI}#L510", date=_TEI_DATE),
        Row(Aspect.LENGTH, (HAS_MAX_LENGTH,), SAME, source=f"{_TEI}#L510", date=_TEI_DATE),
    ),
    {"cls": "cls", "mean": "mean", "lasttoken": "last-token"},
    address="https://github.com/huggingface/text-embeddings-inference",
)

_VLLM = "https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/transformers_utils/config.py"
_VLLM_FIX = "https://github.com/vllm-project/vllm/pull/54533"
_VLLM_ISSUE = "https://github.com/vllm-project/vllm/issues/45995"
_VLLM_FLAG = '`--pooler-config \'{{"pooling_type": "{name}"}}\'`'
_VLLM_CLS = "cls, the architecture's default, silently"
_VLLM_DEFAULT = "the architecture's default, silently"
VLLM = Server(
    "vllm",
    "vLLM",
    "0.23",
    "0.33.0",
    (
        Row(Aspect.FILES, (NOT_GGUF,), SAME, source=_VLLM, date=_TODAY),
        Row(Aspect.LAYER, ALWAYS, DIFFERENT, "pools the last hidden state", source=_VLLM, date=_TODAY),
        *_caller_pooling(_VLLM_FLAG, "https://docs.vllm.ai/en/latest/models/pooling_models/", _TODAY, READ),
        Row(
            Aspect.POOLING, (SEVERAL,), DIFFERENT, "one mode of several, or " + _VLLM_DEFAULT, source=_VLLM, date=_TODAY
        ),
        Row(
            Aspect.POOLING,
            (OUR_FILES, CLS, CLS_BY_DEFAULT),
            SAME,
            "cls, the architecture's default",
            source=_VLLM,
            date=_TODAY,
        ),
        Row(
            Aspect.POOLING,
            (OUR_FILES, CLS_MEAN_LAST, CLS_BY_DEFAULT),
            DIFFERENT,
            _VLLM_CLS,
            _VLLM_FLAG,
            source=_VLLM,
            date=_TODAY,
        ),
        Row(
            Aspect.POOLING,
            (NEW_PATHS, CLS, CLS_BY_DEFAULT),
            SAME,
            "cls, the architecture's default",
            versions="<0.30",
            source=_VLLM_ISSUE,
            date=_TODAY,
        ),
        Row(
            Aspect.POOLING,
            (NEW_PATHS, CLS_MEAN_LAST, CLS_BY_DEFAULT),
            DIFFERENT,
            _VLLM_CLS,
            _VLLM_FLAG,
            convert=_CONVERT,
            versions="<0.30",
            source=_VLLM_ISSUE,
            date=_TODAY,
        ),
        Row(Aspect.POOLING, (OUR_FILES, CLS_MEAN_LAST), UNKNOWN, _VLLM_DEFAULT, _VLLM_FLAG, source=_VLLM, date=_TODAY),
        Row(
            Aspect.POOLING,
            (NEW_PATHS, CLS_MEAN_LAST),
            UNKNOWN,
            _VLLM_DEFAULT,
            _VLLM_FLAG,
            convert=_CONVERT,
            versions="<0.30",
            source=_VLLM_ISSUE,
            date=_TODAY,
        ),
        Row(Aspect.POOLING, (HOST_FILES, SAVED_CLS_MEAN_LAST), SAME, versions=">=0.30", source=_VLLM_FIX, date=_TODAY),
        Row(Aspect.POOLING, (OLD_PATHS, SAVED_CLS_MEAN_LAST), SAME, source=_VLLM, date=_TODAY),
        Row(
            Aspect.POOLING,
            (HOST_FILES, MEAN, SAVED_MEAN_SQRT),
            SAME,
            "the mean, which has the same direction",
            versions=">=0.30",
            source=_VLLM,
            date=_TODAY,
        ),
        Row(
            Aspect.POOLING,
            (HOST_FILES, SAVED_MEAN_SQRT),
            DIFFERENT,
            "the mean: the same direction, another length",
            versions=">=0.30",
            source=_VLLM,
            date=_TODAY,
        ),
        Row(
            Aspect.POOLING,
            ALWAYS,
            DIFFERENT,
            _VLLM_DEFAULT + "; vLLM has no {modes} pooling",
            source=_VLLM,
            date=_TODAY,
        ),
        *_always_different(_VLLM, _TODAY),
        Row(Aspect.DENSE, (OLD_PATHS,), SAME, source=_VLLM, date=_TODAY),
        Row(
            Aspect.DENSE,
            ALWAYS,
            DIFFERENT,
            "drops {dense}",
            convert=_CONVERT,
            versions="<0.30",
            source=_VLLM_FIX,
            date=_TODAY,
        ),
        Row(Aspect.DENSE, ALWAYS, SAME, versions=">=0.30", source=_VLLM_FIX, date=_TODAY),
        Row(Aspect.UNIT_LENGTH, (NORMALIZE_MATCHES,), SAME, source=_VLLM, date=_TODAY),
        Row(Aspect.UNIT_LENGTH, (NORMALIZE_DIFFERS,), DIFFERENT, "as asked", source=_VLLM, date=_TODAY),
        Row(Aspect.UNIT_LENGTH, (NORMALIZED,), SAME, source=_VLLM, date=_TODAY),
        Row(Aspect.UNIT_LENGTH, (HOST_FILES,), SAME, versions=">=0.30", source=_VLLM_FIX, date=_TODAY),
        Row(Aspect.UNIT_LENGTH, (OLD_PATHS,), SAME, source=_VLLM, date=_TODAY),
        Row(
            Aspect.UNIT_LENGTH,
            (NOT_NORMALIZED,),
            DIFFERENT,
            "vectors of length 1",
            "`--pooler-config '{{\"use_activation\": false}}'`",
            source=_VLLM,
            date=_TODAY,
        ),
        Row(
            Aspect.DIMENSIONS,
            ALWAYS,
            CALLER,
            "all dimensions",
            'send `{{"dimensions": {dimensions}}}`; the model must say `is_matryoshka` in config.json',
            source="https://docs.vllm.ai/en/latest/models/pooling_models/",
            date=_TODAY,
        ),
        Row(Aspect.PROMPT, ALWAYS, CALLER, _NO_PROMPT, _PREPEND, source=_VLLM, date=_TODAY),
        Row(Aspect.CASE, (BOTH_TRANSFORMER_KEYS,), SAME, source=_VLLM, date=_TODAY),
        Row(Aspect.CASE, ALWAYS, DIFFERENT, "ignores do_lower_case", _LOWER, source=_VLLM, date=_TODAY),
        Row(
            Aspect.LENGTH,
            (BOTH_TRANSFORMER_KEYS, HAS_MAX_LENGTH),
            SAME,
            "refuses texts of more than {length} tokens",
            'send `{{"truncate_prompt_tokens": -1}}` to cut them',
            source=_VLLM,
            date=_TODAY,
        ),
        Row(
            Aspect.LENGTH,
            (FITS_TOKENIZER,),
            SAME,
            "refuses texts of more than {length} tokens",
            'send `{{"truncate_prompt_tokens": -1}}` to cut them',
            source="https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/config/model.py#L2572",
            date=_TODAY,
        ),
        Row(
            Aspect.LENGTH,
            ALWAYS,
            DIFFERENT,
            "reads longer texts than {length} tokens",
            'send `{{"truncate_prompt_tokens": {length}}}`',
            source=_VLLM,
            date=_TODAY,
        ),
    ),
    {"cls": "CLS", "mean": "MEAN", "lasttoken": "LAST"},
    address="https://github.com/vllm-project/vllm",
)

_LLAMA = "https://github.com/ggml-org/llama.cpp/blob/master/conversion/base.py"
_LLAMA_PR = "https://github.com/ggml-org/llama.cpp/pull/22087"
_LLAMA_FLAG = "`llama-server --pooling {name}`"
LLAMA_CPP = Server(
    "llama.cpp",
    "llama.cpp",
    "",
    "",
    (
        Row(Aspect.FILES, ALWAYS, SAME, source=_LLAMA, date=_TODAY),
        Row(Aspect.LAYER, ALWAYS, DIFFERENT, "pools the last hidden state", source=_LLAMA, date=_TODAY),
        *_caller_pooling(_LLAMA_FLAG, "https://github.com/ggml-org/llama.cpp/tree/master/tools/server", _TODAY, READ),
        Row(Aspect.POOLING, (GGUF,), SAME, source=_LLAMA, date=_TODAY),
        Row(
            Aspect.POOLING,
            (SEVERAL,),
            DIFFERENT,
            "the first of mean, cls and lasttoken in old files; newer ones stop the converter",
            source=_LLAMA,
            date=_TODAY,
        ),
        Row(Aspect.POOLING, (OLD_PATHS, SAVED_CLS_MEAN_LAST), SAME, source=_LLAMA, date=_TODAY),
        Row(
            Aspect.POOLING,
            (SAVED_CLS_MEAN_LAST,),
            DEPENDS,
            "the same since pull request 22087 (April 2026); older converters write no pooling type",
            _LLAMA_FLAG,
            convert=_CONVERT,
            source=_LLAMA_PR,
            date="2026-04-18",
        ),
        Row(
            Aspect.POOLING,
            (MEAN, SAVED_MEAN_SQRT),
            FAILS,
            "the converter stops: only mean, cls and last are supported",
            convert=_CONVERT,
            source=_LLAMA,
            date=_TODAY,
        ),
        Row(
            Aspect.POOLING,
            ALWAYS,
            FAILS,
            "the converter stops: only mean, cls and last are supported",
            source=_LLAMA,
            date=_TODAY,
        ),
        *_always_different(_LLAMA, _TODAY),
        Row(
            Aspect.DENSE,
            ALWAYS,
            DIFFERENT,
            "drops {dense}",
            "for architectures that have it: `convert_hf_to_gguf.py --sentence-transformers-dense-modules`",
            source=_LLAMA,
            date=_TODAY,
        ),
        Row(Aspect.UNIT_LENGTH, (NORMALIZE_MATCHES,), SAME, source=_LLAMA, date=_TODAY),
        Row(Aspect.UNIT_LENGTH, (NORMALIZE_DIFFERS,), DIFFERENT, "as asked", source=_LLAMA, date=_TODAY),
        Row(
            Aspect.UNIT_LENGTH,
            (NORMALIZED,),
            SAME,
            source="https://github.com/ggml-org/llama.cpp/tree/master/tools/server",
            date=_TODAY,
        ),
        Row(
            Aspect.UNIT_LENGTH,
            ALWAYS,
            CALLER,
            "vectors of length 1 unless the caller says otherwise",
            "`--embd-normalize -1` if the model has no Normalize",
            source="https://github.com/ggml-org/llama.cpp/pull/14964",
            date="2025-07-30",
        ),
        Row(
            Aspect.DIMENSIONS,
            ALWAYS,
            CALLER,
            "all dimensions",
            "cut vectors to {dimensions} dimensions yourself",
            source=_LLAMA,
            date=_TODAY,
        ),
        Row(Aspect.PROMPT, ALWAYS, CALLER, _NO_PROMPT, _PREPEND, source=_LLAMA, date=_TODAY),
        Row(Aspect.CASE, ALWAYS, DIFFERENT, "ignores do_lower_case", _LOWER, source=_LLAMA, date=_TODAY),
        Row(
            Aspect.LENGTH,
            (HAS_LONG_TEXTS,),
            SAME,
            "refuses texts of more tokens than its batch has, 512 by default, and cuts none",
            source="https://github.com/ggml-org/llama.cpp/pull/7389",
            date="2024-05-19",
        ),
        Row(
            Aspect.LENGTH,
            ALWAYS,
            CALLER,
            "reads texts of more than {length} tokens: up to its batch, 512 by default; refuses longer ones",
            "`--batch-size {length} --ubatch-size {length}`, to refuse what the model would cut",
            source="https://github.com/ggml-org/llama.cpp/pull/7389",
            date="2024-05-19",
        ),
    ),
    {"cls": "cls", "mean": "mean", "lasttoken": "last"},
    address="https://github.com/ggml-org/llama.cpp",
)

_INFINITY = "https://github.com/michaelfeil/infinity/blob/0.0.78/libs/infinity_emb/infinity_emb/transformer/embedder"
_INFINITY_ST = f"{_INFINITY}/sentence_transformer.py"
_ALWAYS_UNIT = "vectors of length 1"
INFINITY = Server(
    "infinity",
    "infinity",
    "0.0.78",
    "0.0.78",
    (
        Row(Aspect.FILES, (GGUF,), FAILS, "reads no GGUF files", source=_INFINITY_ST, date=_TODAY),
        # python -m benchmarks.server_readers infinity ENVIRONMENT, with sentence-transformers 3.4.1, which it requires
        Row(
            Aspect.FILES,
            (NEW_PATHS,),
            FAILS,
            "its sentence-transformers, older than 4, does not know the class paths of 5.4",
            convert=_CONVERT,
            source="https://pypi.org/project/infinity-emb/0.0.78/",
            date=_TODAY,
            known=RUN,
        ),
        Row(
            Aspect.FILES,
            (OUR_FILES,),
            FAILS,
            "its sentence-transformers, older than 4, is too old for maskpool",
            source="https://pypi.org/project/infinity-emb/0.0.78/",
            date=_TODAY,
        ),
        Row(Aspect.FILES, (OLD_PATHS,), SAME, source=_INFINITY_ST, date=_TODAY, known=RUN),
        Row(Aspect.LAYER, ALWAYS, SAME, source=_INFINITY_ST, date=_TODAY),
        Row(Aspect.POOLING, (HOST_MODE,), SAME, source=_INFINITY_ST, date=_TODAY, known=RUN),
        Row(Aspect.PROMPT_TOKENS, ALWAYS, DIFFERENT, _PROMPT_TOKENS, source=_INFINITY_ST, date=_TODAY, known=RUN),
        Row(Aspect.DENSE, ALWAYS, SAME, source=_INFINITY_ST, date=_TODAY, known=RUN),
        Row(Aspect.UNIT_LENGTH, (NORMALIZED,), SAME, source=_INFINITY_ST, date=_TODAY, known=RUN),
        Row(Aspect.UNIT_LENGTH, ALWAYS, DIFFERENT, _ALWAYS_UNIT, source=_INFINITY_ST, date=_TODAY, known=RUN),
        Row(
            Aspect.DIMENSIONS,
            ALWAYS,
            CALLER,
            "all dimensions",
            "cut vectors to {dimensions} dimensions yourself",
            source=_INFINITY_ST,
            date=_TODAY,
        ),
        Row(Aspect.PROMPT, ALWAYS, CALLER, _NO_PROMPT, _PREPEND, source=_INFINITY_ST, date=_TODAY, known=RUN),
        Row(Aspect.CASE, ALWAYS, SAME, source=_INFINITY_ST, date=_TODAY),
        Row(Aspect.LENGTH, (HAS_MAX_LENGTH,), SAME, source=_INFINITY_ST, date=_TODAY, known=RUN),
        Row(Aspect.LENGTH, (FITS_TOKENIZER,), SAME, source=_INFINITY_ST, date=_TODAY),
    ),
    takes_pooling=False,
    address="https://github.com/michaelfeil/infinity",
)

_FASTEMBED = "https://github.com/qdrant/fastembed/blob/v0.9.1/fastembed/text/custom_text_embedding.py"
_FASTEMBED_CALL = "`add_custom_model(..., pooling=PoolingType.{name}, normalization={normalize})`"
FASTEMBED = Server(
    "fastembed",
    "fastembed",
    "0.9",
    "0.9.1",
    (
        # python -m benchmarks.server_readers fastembed ENVIRONMENT
        Row(Aspect.FILES, (GGUF,), FAILS, "reads no GGUF files", source=_FASTEMBED, date=_TODAY),
        Row(
            Aspect.FILES,
            (NO_ONNX,),
            FAILS,
            "needs an ONNX file",
            "`maskpool.integrations.onnx.export`",
            source=_FASTEMBED,
            date=_TODAY,
        ),
        Row(Aspect.FILES, ALWAYS, SAME, source=_FASTEMBED, date=_TODAY, known=RUN),
        Row(Aspect.LAYER, ALWAYS, DIFFERENT, "pools the first output of the ONNX file", source=_FASTEMBED, date=_TODAY),
        *_caller_pooling(_FASTEMBED_CALL, _FASTEMBED, _TODAY, RUN),
        Row(
            Aspect.POOLING,
            (CLS_MEAN_LAST,),
            CALLER,
            "as the caller says; it never reads files of sentence-transformers",
            _FASTEMBED_CALL,
            source=_FASTEMBED,
            date=_TODAY,
            known=RUN,
        ),
        Row(
            Aspect.POOLING,
            ALWAYS,
            DIFFERENT,
            "cls, mean or the last token, as the caller says: it has no {modes} pooling",
            "an ONNX file that pools, with `PoolingType.DISABLED`",
            source=_FASTEMBED,
            date=_TODAY,
        ),
        *_always_different(_FASTEMBED, _TODAY, special="an ONNX file that pools, with `PoolingType.DISABLED`"),
        Row(
            Aspect.DENSE,
            ALWAYS,
            DIFFERENT,
            "drops {dense}",
            "an ONNX file that has it",
            source=_FASTEMBED,
            date=_TODAY,
            known=RUN,
        ),
        Row(Aspect.UNIT_LENGTH, (NORMALIZE_MATCHES,), SAME, source=_FASTEMBED, date=_TODAY, known=RUN),
        Row(Aspect.UNIT_LENGTH, (NORMALIZE_DIFFERS,), DIFFERENT, "as asked", source=_FASTEMBED, date=_TODAY),
        Row(
            Aspect.UNIT_LENGTH,
            ALWAYS,
            CALLER,
            "as the caller says",
            _FASTEMBED_CALL,
            source=_FASTEMBED,
            date=_TODAY,
            known=RUN,
        ),
        Row(
            Aspect.DIMENSIONS,
            ALWAYS,
            CALLER,
            "all dimensions",
            "cut vectors to {dimensions} dimensions yourself",
            source=_FASTEMBED,
            date=_TODAY,
        ),
        Row(Aspect.PROMPT, ALWAYS, CALLER, _NO_PROMPT, _PREPEND, source=_FASTEMBED, date=_TODAY, known=RUN),
        Row(Aspect.CASE, ALWAYS, DIFFERENT, "ignores do_lower_case", _LOWER, source=_FASTEMBED, date=_TODAY),
        Row(Aspect.LENGTH, (FITS_TOKENIZER,), SAME, source=_FASTEMBED, date=_TODAY, known=RUN),
        Row(
            Aspect.LENGTH,
            ALWAYS,
            DIFFERENT,
            "cuts texts to model_max_length of tokenizer_config.json, not to {length} tokens",
            convert=_CONVERT,
            source=_FASTEMBED,
            date=_TODAY,
            known=RUN,
        ),
    ),
    {"cls": "CLS", "mean": "MEAN", "lasttoken": "LAST_TOKEN"},
    address="https://github.com/qdrant/fastembed",
)

_TXTAI = "https://github.com/neuml/txtai/blob/v9.14.0/src/python/txtai/models/pooling/factory.py"
_TXTAI_ST = (
    '`method: "sentence-transformers"`, and for a pooling of maskpool also `vectors: {{trust_remote_code: true}}`'
)
TXTAI = Server(
    "txtai",
    "txtai",
    "9.14",
    "9.14.0",
    (
        # python -m benchmarks.server_readers txtai ENVIRONMENT; txtai then pools without sentence-transformers
        Row(Aspect.FILES, (NOT_GGUF,), SAME, source=_TXTAI, date=_TODAY, known=RUN),
        Row(Aspect.LAYER, ALWAYS, DIFFERENT, "pools the last hidden state", _TXTAI_ST, source=_TXTAI, date=_TODAY),
        Row(Aspect.POOLING, (CLS_MEAN_LAST_MAX, GIVEN_FITS), SAME, source=_TXTAI, date=_TODAY, known=RUN),
        Row(Aspect.POOLING, (GIVEN,), DIFFERENT, "{given}, as passed", "`method: {name}`", source=_TXTAI, date=_TODAY),
        Row(
            Aspect.POOLING,
            (OTHER_FOLDER,),
            DIFFERENT,
            "the mean: it reads the pooling from the folder 1_Pooling only",
            "`method: {name}`",
            source=_TXTAI,
            date=_TODAY,
        ),
        Row(Aspect.POOLING, (CLS_MEAN_LAST_MAX,), SAME, source=_TXTAI, date=_TODAY, known=RUN),
        Row(
            Aspect.POOLING,
            (SEVERAL,),
            DIFFERENT,
            "one mode of several: the mean, or the first of cls, lasttoken and max",
            _TXTAI_ST,
            source=_TXTAI,
            date=_TODAY,
            known=RUN,
        ),
        Row(
            Aspect.POOLING,
            (SAVED_MEAN_SQRT,),
            DIFFERENT,
            "the mean: the same direction, another length",
            source=_TXTAI,
            date=_TODAY,
            known=RUN,
        ),
        Row(Aspect.POOLING, ALWAYS, DIFFERENT, "the mean", _TXTAI_ST, source=_TXTAI, date=_TODAY, known=RUN),
        Row(Aspect.PROMPT_TOKENS, ALWAYS, DIFFERENT, _PROMPT_TOKENS, _TXTAI_ST, source=_TXTAI, date=_TODAY, known=RUN),
        Row(Aspect.SPECIAL_TOKENS, ALWAYS, DIFFERENT, _SPECIAL, _TXTAI_ST, source=_TXTAI, date=_TODAY),
        Row(Aspect.DENSE, ALWAYS, DIFFERENT, "drops {dense}", _TXTAI_ST, source=_TXTAI, date=_TODAY, known=RUN),
        Row(Aspect.UNIT_LENGTH, (NORMALIZED,), SAME, source=_TXTAI, date=_TODAY, known=RUN),
        Row(Aspect.UNIT_LENGTH, ALWAYS, DIFFERENT, _ALWAYS_UNIT, source=_TXTAI, date=_TODAY, known=RUN),
        Row(
            Aspect.DIMENSIONS,
            ALWAYS,
            CALLER,
            "all dimensions",
            "`dimensionality: {dimensions}`",
            source=_TXTAI,
            date=_TODAY,
        ),
        Row(
            Aspect.PROMPT,
            ALWAYS,
            CALLER,
            'the prompt "query" for queries and the prompt "document" for data',
            "`instructions: {{query: {prompt!r}, data: {prompt!r}}}`",
            source=_TXTAI,
            date=_TODAY,
            known=RUN,
        ),
        Row(Aspect.CASE, ALWAYS, DIFFERENT, "ignores do_lower_case", _TXTAI_ST, source=_TXTAI, date=_TODAY),
        Row(Aspect.LENGTH, (FITS_TOKENIZER,), SAME, source=_TXTAI, date=_TODAY, known=RUN),
        Row(
            Aspect.LENGTH,
            ALWAYS,
            DIFFERENT,
            "cuts texts to the tokenizer's length, not to {length} tokens",
            "`maxlength: {length}`",
            source=_TXTAI,
            date=_TODAY,
            known=RUN,
        ),
    ),
    {"cls": "clspooling", "mean": "meanpooling", "lasttoken": "lastpooling", "max": "maxpooling"},
    address="https://github.com/neuml/txtai",
)

_ST = "https://github.com/huggingface/sentence-transformers"
_ST_FORMAT = f"{_ST}/pull/3554"
_ST_FILES = f"{_ST}/blob/v6.2.0/sentence_transformers"
_ST_LOADS, _ST_MODEL = f"{_ST_FILES}/base/model.py", f"{_ST_FILES}/sentence_transformer/model.py"
_ST_MODULES, _ST_POOLING = f"{_ST_FILES}/base/modules", f"{_ST_FILES}/sentence_transformer/modules/pooling.py"
_TRUST = (
    "`maskpool.integrations.sentence_transformers.load(FOLDER)`, or with maskpool installed "
    "`SentenceTransformer(FOLDER, trust_remote_code=True)`"
)
SENTENCE_TRANSFORMERS = Server(
    "sentence-transformers",
    "sentence-transformers",
    "3.4.1",
    "6.2.0",
    (
        # python -m benchmarks.server_readers sentence-transformers ENVIRONMENT, with 3.4.1, 5.3.0, 5.4.0 and 6.2.0
        Row(Aspect.FILES, (GGUF,), FAILS, "reads no GGUF files", source=_ST_LOADS, date=_TODAY),
        Row(
            Aspect.FILES,
            (NEW_PATHS,),
            FAILS,
            "does not know the class paths of 5.4",
            convert=_CONVERT,
            versions="<5.4",
            source=_ST_FORMAT,
            date=_TODAY,
            known=RUN,
        ),
        Row(
            Aspect.FILES,
            (NEW_NORMALIZE,),
            FAILS,
            "does not know the class path of Normalize, which is new in 6.0",
            convert=_CONVERT,
            versions=">=5.4,<6",
            source=f"{_ST_MODULES}/normalize.py",
            date=_TODAY,
            known=RUN,
        ),
        Row(
            Aspect.FILES,
            (OUR_FILES,),
            CALLER,
            "loads only with maskpool",
            _TRUST,
            versions=">=6",
            source=f"{_ST}/pull/3935",
            date=_TODAY,
            known=RUN,
        ),
        Row(
            Aspect.FILES,
            (OUR_FILES,),
            CALLER,
            "loads only if maskpool is installed",
            "`pip install maskpool`",
            versions=">=5.4,<6",
            source=f"{_ST}/blob/v5.4.0/sentence_transformers/base/model.py",
            date=_TODAY,
            known=RUN,
        ),
        Row(Aspect.FILES, ALWAYS, SAME, source=_ST_LOADS, date=_TODAY, known=RUN),
        *(
            Row(aspect, ALWAYS, SAME, source=source, date=_TODAY, known=RUN)
            for aspect, source in {
                Aspect.POOLING: _ST_POOLING,
                Aspect.PROMPT_TOKENS: _ST_POOLING,
                Aspect.DENSE: f"{_ST_MODULES}/dense.py",
                Aspect.UNIT_LENGTH: f"{_ST_MODULES}/normalize.py",
                Aspect.PROMPT: _ST_MODEL,
                Aspect.LENGTH: f"{_ST_MODULES}/transformer.py",
            }.items()
        ),
        *(
            Row(aspect, ALWAYS, SAME, source=source, date=_TODAY)
            for aspect, source in {
                Aspect.LAYER: f"{_ST_MODULES}/transformer.py",
                Aspect.SPECIAL_TOKENS: _ST_POOLING,
                Aspect.DIMENSIONS: _ST_MODEL,
                Aspect.CASE: f"{_ST_MODULES}/transformer.py",
            }.items()
        ),
    ),
    takes_pooling=False,
    address=_ST,
)

_JS = "https://github.com/huggingface/transformers.js/blob/5ed4c5c/packages/transformers/src/pipelines/feature-extraction.js"
_JS_CALL = "`extractor(text, {{ pooling: '{name}', normalize: {javascript} }})`"
TRANSFORMERS_JS = Server(
    "transformers.js",
    "transformers.js",
    "4.2.0",
    "4.3.2",
    (
        # python -m benchmarks.server_readers transformers.js ENVIRONMENT, with @huggingface/transformers 4.3.2
        Row(Aspect.FILES, (GGUF,), FAILS, "reads no GGUF files", source=_JS, date=_TODAY),
        Row(
            Aspect.FILES,
            (NO_ONNX,),
            FAILS,
            "needs an ONNX file",
            "`maskpool.integrations.onnx.export`",
            source=_JS,
            date=_TODAY,
        ),
        Row(Aspect.FILES, ALWAYS, SAME, source=_JS, date=_TODAY, known=RUN),
        Row(Aspect.LAYER, ALWAYS, DIFFERENT, "pools the output last_hidden_state", source=_JS, date=_TODAY),
        Row(
            Aspect.POOLING,
            (LAST, PADS_RIGHT),
            DIFFERENT,
            "the last column, which is a pad in the shorter texts of a batch",
            "one text at a time, or a tokenizer that pads on the left",
            source=_JS,
            date=_TODAY,
            known=RUN,
        ),
        *_caller_pooling(_JS_CALL, _JS, _TODAY, RUN),
        Row(
            Aspect.POOLING,
            (CLS_MEAN_LAST,),
            CALLER,
            "as the caller says; without an argument, the states of all tokens",
            _JS_CALL,
            source=_JS,
            date=_TODAY,
            known=RUN,
        ),
        Row(
            Aspect.POOLING,
            ALWAYS,
            DIFFERENT,
            "cls, mean or the last token, as the caller says: it has no {modes} pooling",
            "an ONNX file that pools: `model(inputs).sentence_embedding`",
            source=_JS,
            date=_TODAY,
        ),
        *_always_different(_JS, _TODAY, special="an ONNX file that pools: `model(inputs).sentence_embedding`"),
        Row(
            Aspect.DENSE,
            ALWAYS,
            DIFFERENT,
            "drops {dense}",
            "an ONNX file that has it: `model(inputs).sentence_embedding`",
            source=_JS,
            date=_TODAY,
            known=RUN,
        ),
        Row(Aspect.UNIT_LENGTH, (NORMALIZE_MATCHES,), SAME, source=_JS, date=_TODAY, known=RUN),
        Row(Aspect.UNIT_LENGTH, (NORMALIZE_DIFFERS,), DIFFERENT, "as asked", source=_JS, date=_TODAY),
        Row(
            Aspect.UNIT_LENGTH,
            ALWAYS,
            CALLER,
            "as the caller says; as pooled by default",
            _JS_CALL,
            source=_JS,
            date=_TODAY,
            known=RUN,
        ),
        Row(
            Aspect.DIMENSIONS,
            ALWAYS,
            CALLER,
            "all dimensions",
            "cut vectors to {dimensions} dimensions yourself",
            source=_JS,
            date=_TODAY,
        ),
        Row(Aspect.PROMPT, ALWAYS, CALLER, _NO_PROMPT, _PREPEND, source=_JS, date=_TODAY, known=RUN),
        Row(Aspect.CASE, ALWAYS, DIFFERENT, "ignores do_lower_case", _LOWER, source=_JS, date=_TODAY),
        Row(
            Aspect.LENGTH,
            ALWAYS,
            DIFFERENT,
            "cuts texts of more than model_max_length tokens without the tokens that end a text, such as [SEP]",
            "cut texts to fewer than {length} tokens before they are passed",
            source=_JS,
            date=_TODAY,
            known=RUN,
        ),
    ),
    {"cls": "cls", "mean": "mean", "lasttoken": "last_token"},
    address="https://github.com/huggingface/transformers.js",
)

SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        TEXT_EMBEDDINGS_INFERENCE,
        VLLM,
        LLAMA_CPP,
        INFINITY,
        FASTEMBED,
        TXTAI,
        SENTENCE_TRANSFORMERS,
        TRANSFORMERS_JS,
    )
}
# What is checked unless the caller names servers.
DEFAULT_SERVERS = (
    *(name for name in SERVERS if name not in ("sentence-transformers", "transformers.js")),
    "sentence-transformers==5.3",
    "sentence-transformers==6.2",
    "transformers.js",
)
