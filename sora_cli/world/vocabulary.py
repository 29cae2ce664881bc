"""What exists in the world: subjects, actions, places, attributes, and what people call them. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    name: str
    emoji: str
    home: str                      # the place when none is said
    synonyms: tuple[str, ...] = ()
    facing: int = -1               # where the sprite looks: -1 left, +1 right, 0 nowhere
    nose: float | None = None      # degrees from right, upwards: sprites that turn into their flight
    flies: bool = False            # hovers above the ground instead of standing on it


def _subject(name: str, emoji: str, home: str, synonyms: str = "", facing: int = -1,
             nose: float | None = None, flies: bool = False) -> Subject:
    said = tuple(s.strip() for s in synonyms.split(",") if s.strip())
    return Subject(name, emoji, home, said, facing, nose, flies)


SUBJECTS: dict[str, Subject] = {s.name: s for s in (
    _subject("cat", "🐈", "meadow", "kitty, kitten"),
    _subject("dog", "🐕", "meadow", "puppy, doggy, doggie", facing=0),
    _subject("rocket", "🚀", "space", "spaceship, rocketship, rocket ship", facing=1, nose=45.0, flies=True),
    _subject("sailboat", "⛵", "ocean", "boat, ship, yacht", facing=1),
    _subject("whale", "🐳", "ocean"),
    _subject("penguin", "🐧", "snow"),
    _subject("crab", "🦀", "sunset beach", "lobster", facing=0),
    _subject("unicorn", "🦄", "meadow"),
    _subject("bird", "🐦", "sky", "bluebird", flies=True),
    _subject("butterfly", "🦋", "meadow", "moth", facing=0, flies=True),
    _subject("car", "🚗", "city at night", "automobile, taxi"),
    _subject("bus", "🚌", "city at night", "coach"),
    _subject("bicycle", "🚲", "city at night", "bike"),
    _subject("balloon", "🎈", "sky", facing=0, flies=True),
    _subject("robot", "🤖", "city at night", "android", facing=0),
    _subject("ghost", "👻", "city at night", "spirit", facing=0, flies=True),
    _subject("dragon", "🐉", "volcano", flies=True),
    _subject("turtle", "🐢", "sunset beach", "tortoise"),
    _subject("fish", "🐠", "underwater", "goldfish"),
    _subject("octopus", "🐙", "underwater", "squid", facing=0),
    _subject("frog", "🐸", "forest", "toad", facing=0),
    _subject("lion", "🦁", "desert", facing=0),
    _subject("elephant", "🐘", "desert"),
    _subject("pig", "🐖", "meadow", "piglet, piggy"),
    _subject("horse", "🐎", "meadow", "pony"),
    _subject("bear", "🐻", "forest", "teddy", facing=0),
    _subject("panda", "🐼", "forest", facing=0),
    _subject("fox", "🦊", "forest", facing=0),
    _subject("owl", "🦉", "forest", facing=0, flies=True),
    _subject("bee", "🐝", "meadow", "bumblebee, wasp", flies=True),
    _subject("snail", "🐌", "forest"),
    _subject("dinosaur", "🦕", "volcano", "dino"),
    _subject("ufo", "🛸", "space", "flying saucer, saucer", facing=0, flies=True),
    _subject("airplane", "✈", "sky", "plane, aeroplane, jet", facing=1, nose=45.0, flies=True),
    _subject("helicopter", "🚁", "sky", "chopper", flies=True),
    _subject("train", "🚂", "desert", "locomotive"),
    _subject("tractor", "🚜", "meadow"),
    _subject("duck", "🦆", "ocean", "duckling"),
    _subject("rooster", "🐓", "meadow", "chicken, hen, cock"),
    _subject("rabbit", "🐇", "snow", "bunny, hare"),
    _subject("monkey", "🐒", "forest", "ape, chimp"),
    _subject("cow", "🐄", "meadow", "cattle"),
    _subject("football", "⚽", "meadow", "soccer ball, ball, soccer", facing=0),
    _subject("pumpkin", "🎃", "city at night", "jack o lantern", facing=0),
    _subject("snowman", "⛄", "snow", facing=0),
    _subject("flamingo", "🦩", "sunset beach"),
    _subject("giraffe", "🦒", "desert"),
    _subject("tiger", "🐅", "forest"),
    _subject("sheep", "🐑", "meadow", "lamb"),
    _subject("shark", "🦈", "underwater"),
    _subject("dolphin", "🐬", "ocean", "porpoise"),
    _subject("zebra", "🦓", "desert"),
    _subject("camel", "🐪", "desert", "dromedary"),
    _subject("kangaroo", "🦘", "desert", "wallaby"),
    _subject("parrot", "🦜", "forest", "macaw", flies=True),
    _subject("swan", "🦢", "ocean", "goose"),
    _subject("hedgehog", "🦔", "forest", "porcupine"),
    _subject("squirrel", "🐿", "forest", "chipmunk"),
    _subject("mouse", "🐁", "meadow", "rat"),
    _subject("deer", "🦌", "aurora", "reindeer, stag"),
    _subject("truck", "🚚", "city at night", "lorry, van"),
    _subject("motorcycle", "🏍", "city at night", "motorbike"),
    _subject("alien", "👽", "space", "extraterrestrial", facing=0),
    _subject("koala", "🐨", "stage", facing=0),
)}

# Every phrase below may be typed; verbs are listed in the -ing form and get their other forms by rule.
ACTIONS: dict[str, tuple[str, ...]] = {
    "moving left": ("going left", "walking left", "flying left", "heading left", "moving leftwards"),
    "moving right": ("going right", "walking right", "flying right", "heading right", "moving rightwards"),
    "bouncing": ("jumping", "hopping", "leaping"),
    "spinning": ("rotating", "turning around", "twirling", "turning"),
    "growing": ("getting bigger", "getting larger", "expanding", "inflating"),
    "shrinking": ("getting smaller", "shriveling", "deflating"),
    "rising": ("going up", "flying up", "moving up", "taking off", "climbing", "ascending", "launching"),
    "falling": ("going down", "dropping", "moving down", "descending", "falling down", "sinking"),
    "surfing": ("riding a wave", "riding the waves", "on a surfboard", "surfing a wave", "surfing on a wave"),
    "swinging": ("swaying", "dangling"),
    "circling": ("moving in circles", "flying in circles", "going in circles", "going around", "orbiting"),
    "standing still": ("standing", "resting", "sitting", "waiting", "not moving", "hovering"),
    "shaking": ("trembling", "shivering", "vibrating"),
    "dancing": ("wiggling", "grooving", "boogying"),
    "flipping": ("somersaulting", "doing a somersault", "doing a backflip", "doing flips"),
    "floating": ("bobbing", "bobbing up and down", "drifting up and down"),
}

PLACES: dict[str, tuple[str, ...]] = {
    "ocean": ("sea", "water", "waves"),
    "sky": ("clouds", "air", "blue sky"),
    "space": ("outer space", "stars", "galaxy", "cosmos"),
    "meadow": ("field", "grass", "park", "hills", "garden"),
    "desert": ("dunes", "sahara", "sand dunes"),
    "city at night": ("city", "town", "street", "night", "downtown"),
    "snow": ("winter", "arctic", "ice", "snowfall"),
    "sunset beach": ("beach", "sunset", "shore", "sunset at the beach"),
    "forest": ("woods", "jungle", "trees"),
    "underwater": ("deep sea", "under the sea", "under water", "reef"),
    "volcano": ("lava", "eruption"),
    "moon": ("lunar surface", "on the moon"),
    "aurora": ("northern lights", "polar lights"),
    "stage": ("theatre", "theater", "concert", "disco"),
}

SIZES: dict[str, tuple[str, ...]] = {
    "small": ("little", "tiny"),
    "medium": ("normal sized", "medium sized"),
    "large": ("big", "huge", "giant"),
}
SPEEDS: dict[str, tuple[str, ...]] = {
    "slow": ("slowly", "gently"),
    "normal": (),
    "fast": ("quickly", "rapidly", "quick"),
}
CAMERAS: dict[str, tuple[str, ...]] = {
    "still": ("static camera", "fixed camera"),
    "pan left": ("panning left", "camera panning left", "camera moving left"),
    "pan right": ("panning right", "camera panning right", "camera moving right"),
    "zoom in": ("zooming in", "camera zooming in", "close up"),
    "zoom out": ("zooming out", "camera zooming out"),
}

# What a prompt seldom says, and a seed then chooses: where a subject is, how high, and on which beat the scene begins.
SIDES: dict[str, tuple[str, ...]] = {"left side": ("on the left",), "middle": ("center", "centre"),
                                     "right side": ("on the right",)}  # fmt: skip
HEIGHTS: dict[str, tuple[str, ...]] = {"high": ("high up", "up high"), "low": ("low down",)}
BEATS: dict[str, tuple[str, ...]] = {"beat one": (), "beat two": (), "beat three": (), "beat four": ()}

SIZE_OF = {"small": 0.30, "medium": 0.42, "large": 0.55}       # share of the frame's short side
SIDE_OF = {"left side": -0.17, "middle": 0.0, "right side": 0.17}    # share of the frame's width
HEIGHT_OF = {"high": -0.06, "low": 0.06}                       # share of the height; what stands is never lower
BEAT_OF = {"beat one": 0.0, "beat two": 0.5, "beat three": 1.25, "beat four": 1.75}    # seconds of the bar at the start
SPEED_OF = {"slow": 0.5, "normal": 1.0, "fast": 2.0}           # factor on time: octaves

# Where feet touch, as a share of the frame's height; None: everything floats in the middle.
GROUND: dict[str, float | None] = {
    "ocean": 0.74, "sky": None, "space": None, "meadow": 0.88, "desert": 0.88, "city at night": 0.91,
    "snow": 0.88, "sunset beach": 0.90, "forest": 0.90, "underwater": None, "volcano": 0.90, "moon": 0.88,
    "aurora": 0.88, "stage": 0.90,
}
