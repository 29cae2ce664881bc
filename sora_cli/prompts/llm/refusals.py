"""How a text speaks of those who talk instead of what is to be seen. No torch.

A caption tells of a picture, in the third person. What is none gives itself away by words of closed classes, few in any
language: I or we with a not, a regret of the speaker, or, in one sentence, a picture, a not and a word for handing over
("no image was attached"). What is written or said in the picture, in quotes or after "reads:", is not the speaker's.
"""

import re

from sora_cli.prompts.llm.wording import ANY, either, words

QUOTED = re.compile(r"[\"“”«»„][^\"“”«»„]*[\"“”«»]|「[^「」]*」|『[^『』]*』|(?<!\w)'(?:[^']|(?<=\w)'(?=\w))*'(?!\w)"
                    r"|\b(?:reads?|reading|says?|saying|shows?|showing|titled|label(?:l?ed)?|written|words?|text|steht"
                    r"|liest|lit|dice|diz|надпис\w+|caption(?:ed)?)\s*:[^.!?。]*"
                    r"|\b(?:that|which) (?:says|reads) [^.!?。]*", ANY)  # fmt: skip
SENTENCE = re.compile(r"[^.!?。！？\n]+")

REGRET = re.compile(either(  # of whoever speaks; "sorry" may be a sign's or a dog's
    words("unfortunately", "regrett?(?:ably|fully)", "leider", r"tut mir (?:\w+ )?leid", "bedauerlicherweise",
          "malheureusement", r"(?:je|nous) \w+ (?:\w+ )?désolée?s?", "lo siento", "lamentablemente",
          "desafortunadamente", "purtroppo", "mi dispiace", "infelizmente", "desculpe", "извините", "niestety",
          "przepraszam", "üzgünüm", "helaas", "het spijt me", "tyvärr", "desværre", "dessverre", "xin lỗi",
          "mohon maaf"),
    r"\b(?:désolée?|простите)\b,", r"\b(?:sinto|lamento) (?:muito|mas|,)", "к сожалению", r"\bmaaf,", "很?抱歉",
    "对不起", "對不起", "申し訳", "すみません", "残念ながら", "죄송", "미안하지만", "유감스럽", "عذر[اًً]", "آسف",
    "क्षमा करें", "माफ़"), ANY)  # fmt: skip
NOT_I = re.compile(either(
    r"\b(?:deine|ihre|eure|votre|ta|tu|su|tuo|suo|sua|tua)[rn]? "
    r"(?:nachricht|anfrage|message|demande|mensaje|messaggio|mensagem)",
    "私.{0,40}(?:ません|ない)", r"\b(?:my|our) (?:capabilit|abilit|training|instructions)",
    words(r"(?:ich|mir|uns)\b.{0,80}\b(?:nicht|kein\w*|unmöglich|außerstande)",
          r"(?:kein\w*|nicht)\b.{0,60}\b(?:ich|mir)", "il m'est impossible",
          "no (?:puedo|podemos|veo|vemos|tengo|he|soy|consigo|logro|estoy|me es|me ha|fui)",
          "não (?:posso|podemos|consigo|vejo|tenho|sou|estou|fui|recebi|me|é possível|foi possível)",
          "non (?:posso|possiamo|riesco|vedo|ho|sono in grado|sono capace|mi è|è possibile|ricevo)",
          r"я\b.{0,60}\bне", "не (?:могу|вижу|имею|удалось|получил[аи]?|умею)", "у меня нет", "мне не",
          "nie (?:mogę|widzę|mam|jestem w stanie|potrafię|otrzymał[ae]m)", r"ik\b.{0,60}\b(?:niet|geen)",
          r"ja[gk]?e?g? (?:kan|kunne|ser|har)\b.{0,20}\b(?:inte|ikke)", r"\w+[ae]m[ıi]yorum", "tôi không",
          "(?:saya|kami) tidak"),
    r"\b(?:je|nous) (?:ne\b|n'|suis incapable)", r"\bje n", r"\bne m(?:e\b|')",
    "我们?.{0,12}?(?:无法|無法|不能|不会|不會|没有|沒有|没法|沒法|看不)",
    "(?:无法|無法|不能)(?:为您|為您|查看|看到|识别|識別|描述|处理|處理|访问|打开|提供|显示|确定)",
    "(?:でき|いたしかね|致しかね|しかね)ま(?:せん|す)(?=.?\\Z|が|。|ので)(?<!できます)(?<!できますが)", "見え?ません",
    "見ることができ", "수(?:가|는)? ?없(?:습니다|어요|네요)", "보이지 않(?:습니다|아요|네요)",
    "لا (?:أستطيع|يمكنني|أرى)", "मैं.{0,60}(?:नहीं|असमर्थ)"), ANY)  # fmt: skip
PICTURE = re.compile(either(
    r"\b(?:image|picture|photo(?:graph)?|video|vidéo|frame|clip|footage|file|attachment|link|bild|bilder|foto|datei"
    r"|anhang|fichier|pièce|imagen|imágenes|archivo|adjunto|immagine|immagini|allegato|imagem|imagens|arquivo|anexo"
    r"|afbeelding|zdjęci\w+|obraz\w*|изображени\w+|картин\w+|фото\w*|видео|görsel\w*|resim|gambar|hình ảnh"
    r"|bilden)s?\b", "图[片像]?", "圖[片像]?", "照片", "视频", "影片", "文件", "画像", "写真", "動画", "이미지",
    "사진", "영상", "동영상", "파일", "صورة", "चित्र", "छवि"), ANY)  # fmt: skip
NOT = re.compile(either(
    words("no", "not", "none", "never", "without", r"kein\w*", "nicht", "aucune?", "pas", "ne", "ningun[ao]?",
          "ningún", "sin", "non", r"nessun\w*", "não", r"nenhum\w*", "geen", "niet", "nie", r"żadn\w+", "не", "нет",
          "yok", "tidak", "không", "inte", "ikke", "ingen", "don t"),
    r"n't\b", r"\bn'", "[没沒未无無]", "ない", "ません", "없", "않", "لم", "नहीं"), ANY)  # fmt: skip
GIVING = re.compile(either(
    r"\b(?:provid(?!ed with|es|ing)|attach|upload|includ(?:ed|e)\b|shar(?:ed|e)\b|receiv|sen[td]\b|detected|supplied"
    r"|specified|(?:was|were|been) given)",
    words("hochgeladen", "angehängt", "bereitgestellt", "beigefügt", "mitgeschickt", "mitgesendet", "gesendet",
          "geschickt", "übermittelt", "erhalten", "vorhanden", "bijgevoegd", "geüpload", "verstrekt", "meegestuurd",
          "ontvangen", "diunggah", "dilampirkan", "disediakan", "bifogat", "uppladdad", "vedhæftet", "uploadet",
          "vedlagt"),
    r"\b(?:fourni|joint|téléchargé|téléversé|envoyé|transmi|reçu|partagé|adjunt|proporcion|subid|enviad|cargad|recib"
    r"|compart|fornit|allegat|caricat|inviat|ricevut|condivis|fornecid|anexad|carregad|recebid|compartilhad"
    r"|partilhad|załączon|przesłan|dołączon|dostarczon)\w*",
    r"(?:предоставлен|предоставил|прикреп|приложен|загружен|загрузил|отправлен|отправил|получен)\w*",
    r"\b(?:yüklen|ekle|gönder)\w+", "提供", "上[传傳]", "收到", "附[件上带加]", "見つか", "添付", "アップロード",
    "送信", "첨부", "업로드", "제공", "전송", "مرفق", "तस्वीर भेज", "अपलोड"), ANY)  # fmt: skip
HANDED_OVER = PICTURE, NOT, GIVING
_TALK = "(?:message|request|prompt|chat|conversation|input|post)"
NOTHING = re.compile(r"\W*" + either(
    rf"(?:there (?:is|are|was|were) |i see |sorry,? )?no (?:\w+ )?"
    rf"(?:{PICTURE.pattern}|caption|description|data|content)"
    rf"(?: (?:here|yet|found|available|data|content|in (?:your|the|this) {_TALK}))?\W*\Z",
    rf"(?:the |your )?{PICTURE.pattern} (?:is |was |could )?(?:not|n't) (?:be )?"
    r"(?:found|available|loaded|supported|read)\b",
    r"(?:file|page|resource) not found\b", r"not (?:found|available|applicable)\W*\Z",
    r"(?:failed|unable) to (?:load|process|open|read|decode|fetch|display|generate|analy[sz]e)\b"), ANY)  # fmt: skip
YOU = re.compile(either(
    words("you(?:'ve| have| did| do|r|)? ?(?:not|n't|never)", "you (?:provided|uploaded|attached|shared|sent)",
          "(?:in|with|to|from|of) your (?:message|request|prompt|question|input|upload|query|post|last)",
          "(?:looks|seems|appears)(?: like| that| as if| as though)? (?:you|your)"),
    r"\byour (?:image|photo|picture|video) (?:did|was|is|has|could)"), ANY)  # fmt: skip
ASKED = re.compile(either(  # a request, where a sentence begins with it
    "bitte (?:laden|lade|schicken|schick|senden|sende|stellen|geben|teilen|fügen)",
    r"(?:veuillez|merci de|pourriez-vous|puedes|podrías|podría|você pode|poderia|potresti|puoi)\b",
    r"por favor,? (?:sub|env|proporcion|adjunt|compart|forneç|carregu|anex)\w*",
    r"(?:per favore|si prega di)\b.{0,20}(?:caric|invi|forn|alleg|condivid)\w*", r"пожалуйста,? \w+те\b",
    r"proszę (?:przes|prze|za|udost|o )\w*", r"(?:upload|stuur) (?:alstublieft|a\.u\.b)",
    "[请請](?:您)?(?:先|重新|再)?(?:提供|上[传傳]|发送|發送|附)",
    ".{0,30}(?:アップロード|添付|提供|共有|送信)して(?:ください|いただ)",
    ".{0,30}(?:업로드|첨부|제공|공유|전송)해 ?(?:주|줄)"), ANY)  # fmt: skip


def refused(text: str) -> bool:
    """Whether a text tells of itself and its reader."""
    own = QUOTED.sub(" ", text)
    if REGRET.search(own) or YOU.search(own) or NOTHING.match(own):
        return True
    return any(NOT_I.search(sentence) or ASKED.match(sentence) or all(of.search(sentence) for of in HANDED_OVER)
               for sentence in map(str.strip, SENTENCE.findall(own)))  # fmt: skip
