"""How language models say what is no answer: thoughts, wrappings, courtesies and refusals, as patterns. No torch."""

import re

ANY = re.IGNORECASE | re.DOTALL


def either(*texts: str) -> str:
    return f"(?:{'|'.join(texts)})"


def words(*texts: str) -> str:
    return rf"\b{either(*texts)}\b"


# ---- beside the answer

_THINKING = either("(?:seed:)?think(?:ing)?", "thoughts?", "reason(?:ing)?", "reflection", "analysis", "scratchpad")
_OPEN = either(rf"<{_THINKING}>", rf"\[{_THINKING}\]", rf"◁{_THINKING}▷", r"<\|begin_of_thought\|>",
               r"<\|channel>thought", "<unused94>thought", r"(?:\A|\n)Thinking\.\.\.[ \t]*\n")  # fmt: skip
_CLOSE = either(rf"</{_THINKING}>", rf"\[/{_THINKING}\]", rf"◁/{_THINKING}▷", r"<\|end_of_thought\|>",
                r"<channel\|>", "<unused95>", r"\.\.\.done thinking\.?")  # fmt: skip
OPEN, CLOSE = re.compile(_OPEN, ANY), re.compile(_CLOSE, ANY)
CHANNEL = re.compile(r"<\|channel\|>\s*(\w+).*?<\|message\|>", re.DOTALL)
BARE_CHANNEL = re.compile(r"\A\s*analysis.*assistantfinal", re.DOTALL)  # whose marks some servers drop
ENDS = re.compile(r"<\|(?:im_end|im_start|endoftext|eot_id|end|return|start|call|eos|user|assistant)\|>|</?s>|<eos>"
                  r"|<(?:end|start)_of_turn>|\[/?INST\]")  # fmt: skip
SPEAKER = re.compile(r"\A\s*(?:(?:assistant|model)\s*\n|(?:assistant|ai|bot|gpt)\s*:)\s*", re.IGNORECASE)
WRAPPING = re.compile(r"<(answer|output|caption|final|result|response|description|prompt)>", ANY)
SOLUTION = re.compile(r"<\|(?:begin|end)_of_(?:solution|box)\|>")
BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
TEX = re.compile(r"\A\\text\w*\{([^{}]*)\}\Z")
MARKS = re.compile(r"<\|[^>]*>|<[a-z_]*\|>|</?[a-z_:]+(?:\s[^<>]*)?/?>|\A(?:\{|\[\s*[\"'{])"
                   r"|\[/?(?:INST|IMG|THINK)\]|◁|▷", re.IGNORECASE)  # fmt: skip
FENCE = re.compile(r"```[\w-]*\n?(.*?)(?:```|\Z)", re.DOTALL)
LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
BOLD = re.compile(r"(\*{1,3}|__)(?=\S)(.+?)(?<=\S)\1")
BULLET = re.compile(r"^\s*(?:#{1,6}\s+|>\s+|[-*•]\s+|1[.)]\s+)", re.MULTILINE)
QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "„": "“", "«": "»", "‘": "’", "「": "」", "『": "』"}

_WILLING = either("sure(?: thing)?", "certainly", "of course", "absolutely", "okay", "ok", "alright", "great", "got it",
                  "no problem", "gladly", "happy to help", "natürlich", "gerne?", "klar", "bien sûr", "d'accord",
                  "¡?claro", "por supuesto", "certo", "certamente", "конечно", "jasne", "oczywiście", "当然", "當然",
                  "好的", "もちろんです", "물론입니다", "물론이죠")  # fmt: skip
_KIND = either("the", "your", "my", "an?", "one", "single", "short", "plain", "final", "video", "image", "picture",
               "scene", "rewritten", "expanded", "revised", "detailed", "improved", "english", "new", "suggested"
               )  # fmt: skip
_NAME = either("captions?", "descriptions?", "answer", "prompt", "sentence", "output", "response", "paragraph",
               "version", "translation", "result", r"(?:bild|kurz)?beschreibung", "bildunterschrift", "légende",
               "descripción", "pie de foto", "descrizione", "didascalia", "descrição", "legenda", "описание",
               "подпись", "opis", "beschrijving", "描述", "说明", "説明", "說明", "キャプション", "설명", "캡션")
_HERE = either(words("here(?:'s| is| are| you go| you are)", "this is", "below is", "hier (?:ist|is|sind)", "voici",
                     "voilà", "aquí (?:está|tienes|va)", "ecco", "aqui (?:está|vai)", "oto", "här är", "her er"),
               "вот", "以下", "这是", "這是", "こちら", "다음은")  # fmt: skip
# "Here is a small dog: it runs." is a caption; an introduction names what it introduces, or ends its line
_NAMED = either(_NAME, words("i", "you", "my", "your", "what", "satz", "phrase", "frase", "zdanie", "предложение"))
PREAMBLE = re.compile(
    rf"(?:{_WILLING}\s*[!,.:;！，。—-]+\s*)?"
    rf"(?:{_HERE}(?:[^\n:：]{{0,120}}{_NAMED}[^\n:：]{{0,120}}[:：]|[^\n:：]{{0,120}}[:：](?=\s*\n|\s*[\"“«„「])|[:：])\s*"
    rf"|(?:{_KIND}[ -])*{_NAME}(?: of the \w+)?\s*(?:is|would be|could be)?\s*[:：]\s*)?", ANY
)  # fmt: skip
# what stands under a heading that calls it the caption, or begins a line that does, is what was asked for
SECTION = re.compile(rf"(?:\A|\n)[ \t]*(?:\d+[.)] *)?(?:#{{1,6}} *|\*\*)?(?:{_KIND}[ -])*{_NAME}(?:\*\*)?[ \t]*"
                     r"(?:[:：](?:\*\*)?|(?<=\*\*)\n|\n)\s*", ANY)  # fmt: skip
HEADING = re.compile(r"\n\s*(?:#{1,6} |\*\*[^*\n]+\*\*:?\s*\n)")
AFTERWORD = re.compile(
    r"(?:\n\s*|(?<=[.!?\"])\s+)"
    + either("(?:please )?let me know", "i hope", "hope this", "feel free", "would you like", "do you want",
             "if you(?:'d| would| want| need| have)", "is there anything", r"\(?note(?: that|:)", r"\(?word count",
             r"\(\d+ words") + ".*", ANY
)  # fmt: skip

# ---- instead of an answer

_WELL = either("okay", "ok", "alright", "hmm+", "wait", "so", "well", "first", "now", "oh", "oops", "no", "but",
               "got it")  # fmt: skip
_WE = either("i", "we")
ALOUD = re.compile(
    rf"(?:{_WELL}\b[,.:!]*\s+)*" + either(
        "the user(?:'s)? (?:\\w+ )?(?:want|ask|need|is|has|prompt|request|provid|gave)",
        "let(?: me|'s) (?:think|see|start|look|break|analy|try|consider)",
        f"{_WE} (?:need|have|must|should|are asked|am asked) to", f"{_WE}'ll", "(?:my|the|our) task is"), ANY
)  # fmt: skip
_DO = either("see", "view", "access", "process", "describe", "identify", "assist", "help", "comply", "provide",
             "determine", "generate", "tell", "say", "open")  # fmt: skip
_SORRY = either("sorry", "afraid(?! of)", f"(?:un|not )able to {_DO}", "(?:my )?apolog")
SORRY = re.compile(rf"\W*(?:(?:{_WELL}|{_WE}|we|am|are|'m|'re|im|very|really|terribly)\b[\s,.']*)*{_SORRY}", ANY)
_CANNOT = either(
    "(?:can|wo|would|could|do|did)(?:n't|'t| not)", "cannot", "can only", "will not", "(?:must |have to )?decline",
    "refuse", "apologi[sz]e", "(?: ?am|'m| ?are|'re) (?:not|unable|just|only|an? (?:ai|text|language))",
    "(?:'d |would |will )?need (?:more|the|an?|to see)",
)  # fmt: skip
_SHOWN = either("image", "picture", "photo", "video", "frame", "clip", "footage", "prompt", "file", "attachment",
                "context", "detail", "information", "link", "url") + "s?"  # fmt: skip
_GIVEN = either("provided", "attached", "uploaded", "included", "shared", "visible", "available", "found", "given",
                "received", "sent", "detected", "load", "come through", f"be {_DO}")  # fmt: skip
_WAS = either("was", "were", "is", "are", "did", "does", "has", "have", "could", "can")
_GIVE = either("provide", "upload", "share", "attach", "send", "give", "supply", "include", "paste", "tell", "clarify",
               "specify", "describe", "check", "try")  # fmt: skip
REQUEST = re.compile(r"(?:\A|[.!?,;]\s+|\bso )\W*(?:please|could you|can you|kindly|would you) (?:re-?)?"
                     rf"{_GIVE}\b", ANY)  # fmt: skip
REFUSAL = re.compile(r"\b" + either(
    rf"{_WE} ?{_CANNOT}\b", r"as an? (?:\w+ )?(?:ai|assistant|language model|text)\b", r"language model\b",
    r"(?:content|safety|usage|our|my) (?:policy|policies|guidelines)\b",
    rf"you(?:'ll| will)? need to (?:re-?)?{_GIVE}\b",
    rf"no (?:\w+ )?{_SHOWN} (?:{_WAS}\b.{{0,12}})?{_GIVEN}", rf"{_SHOWN} you (?:would|want|'d)", "let me know",
    rf"{_SHOWN} {_WAS}(?:n't| not)\b.{{0,20}}{_GIVEN}", rf"(?:not possible|impossible) to {_DO}\b"), ANY
)  # fmt: skip
_MORE = either("and", "or", "but", "nor", "the", "an?", "of", "with", "from", "its", "their", "his", "which", "whose",
               "into", "onto")  # fmt: skip
UNFINISHED = re.compile(rf"(?:[,;:—–(\[-]|\b{_MORE})\Z", ANY)
QUESTION = re.compile(r"[?？؟]\W*\Z")
NULL = re.compile(r"\W*(?:none|nothing|null|nil|nan|n/?a|undefined|unknown|empty|true|false|object object)\W*\Z", ANY)
ERROR = re.compile(r"\W*(?:\w*(?:error|exception)\s*(?:\d+\s*)?:|traceback \(|\w*\s*internal server error"
                   r"|(?:http )?[45]\d\d\b)", ANY)
LOOP = re.compile(r"(.{1,24}?)\1{7,}", re.DOTALL)
CODES = re.compile(  # of terminals: what they are to do, to draw, or to call themselves
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x9c|\x1b\\)?|\x1b"
)
