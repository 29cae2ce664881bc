"""What exists in the world: subjects, actions, places, attributes, and what people call them. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    name: str
    emoji: str
    home: str                      # the place when none is said
    said: str = ""                 # what else people call it, separated by commas
    facing: int = -1               # where the sprite looks: -1 left, +1 right, 0 nowhere
    nose: float | None = None      # degrees from right, upwards: sprites that turn into their flight
    flies: bool = False            # hovers above the ground instead of standing on it

    @property
    def synonyms(self) -> tuple[str, ...]:
        return tuple(self.said.split(", ")) if self.said else ()


SUBJECTS: dict[str, Subject] = {s.name: s for s in (
    Subject("cat", "🐈", "meadow", "kitty, kitten"),
    Subject("dog", "🐕", "meadow", "puppy, doggy, doggie", facing=0),
    Subject("rocket", "🚀", "space", "spaceship, rocketship, rocket ship", facing=1, nose=45.0, flies=True),
    Subject("sailboat", "⛵", "ocean", "boat, ship, yacht", facing=1),
    Subject("whale", "🐳", "ocean"),
    Subject("penguin", "🐧", "snow"),
    Subject("crab", "🦀", "sunset beach", "lobster", facing=0),
    Subject("unicorn", "🦄", "meadow"),
    Subject("bird", "🐦", "sky", "bluebird", flies=True),
    Subject("butterfly", "🦋", "meadow", "moth", facing=0, flies=True),
    Subject("car", "🚗", "city at night", "automobile, taxi"),
    Subject("bus", "🚌", "city at night", "coach"),
    Subject("bicycle", "🚲", "city at night", "bike"),
    Subject("balloon", "🎈", "sky", facing=0, flies=True),
    Subject("robot", "🤖", "city at night", "android", facing=0),
    Subject("ghost", "👻", "city at night", "spirit", facing=0, flies=True),
    Subject("dragon", "🐉", "volcano", flies=True),
    Subject("turtle", "🐢", "sunset beach", "tortoise"),
    Subject("fish", "🐠", "underwater", "goldfish"),
    Subject("octopus", "🐙", "underwater", "squid", facing=0),
    Subject("frog", "🐸", "forest", "toad", facing=0),
    Subject("lion", "🦁", "desert", facing=0),
    Subject("elephant", "🐘", "desert"),
    Subject("pig", "🐖", "meadow", "piglet, piggy"),
    Subject("horse", "🐎", "meadow", "pony"),
    Subject("bear", "🐻", "forest", "teddy", facing=0),
    Subject("panda", "🐼", "forest", facing=0),
    Subject("fox", "🦊", "forest", facing=0),
    Subject("owl", "🦉", "forest", facing=0, flies=True),
    Subject("bee", "🐝", "meadow", "bumblebee, wasp", flies=True),
    Subject("snail", "🐌", "forest"),
    Subject("dinosaur", "🦕", "volcano", "dino"),
    Subject("ufo", "🛸", "space", "flying saucer, saucer", facing=0, flies=True),
    Subject("airplane", "✈", "sky", "plane, aeroplane, jet", facing=1, nose=45.0, flies=True),
    Subject("helicopter", "🚁", "sky", "chopper", flies=True),
    Subject("train", "🚂", "desert", "locomotive"),
    Subject("tractor", "🚜", "meadow"),
    Subject("duck", "🦆", "ocean", "duckling"),
    Subject("rooster", "🐓", "meadow", "chicken, hen, cock"),
    Subject("rabbit", "🐇", "snow", "bunny, hare"),
    Subject("monkey", "🐒", "forest", "ape, chimp"),
    Subject("cow", "🐄", "meadow", "cattle"),
    Subject("football", "⚽", "meadow", "soccer ball, ball, soccer", facing=0),
    Subject("pumpkin", "🎃", "city at night", "jack o lantern", facing=0),
    Subject("snowman", "⛄", "snow", facing=0),
    Subject("flamingo", "🦩", "sunset beach"),
    Subject("giraffe", "🦒", "desert"),
    Subject("tiger", "🐅", "forest"),
    Subject("sheep", "🐑", "meadow", "lamb"),
    Subject("shark", "🦈", "underwater"),
    Subject("dolphin", "🐬", "ocean", "porpoise"),
    Subject("zebra", "🦓", "desert"),
    Subject("camel", "🐪", "desert", "dromedary"),
    Subject("kangaroo", "🦘", "desert", "wallaby"),
    Subject("parrot", "🦜", "forest", "macaw", flies=True),
    Subject("swan", "🦢", "ocean", "goose"),
    Subject("hedgehog", "🦔", "forest", "porcupine"),
    Subject("squirrel", "🐿", "forest", "chipmunk"),
    Subject("mouse", "🐁", "meadow", "rat"),
    Subject("deer", "🦌", "aurora", "reindeer, stag"),
    Subject("truck", "🚚", "city at night", "lorry, van"),
    Subject("motorcycle", "🏍", "city at night", "motorbike"),
    Subject("alien", "👽", "space", "extraterrestrial", facing=0),
    Subject("koala", "🐨", "stage", facing=0),
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

# What a scene has beside its subjects, and what it may be.
FIELDS = {"action": ACTIONS, "place": PLACES, "size": SIZES, "speed": SPEEDS, "camera": CAMERAS, "side": SIDES,
          "height": HEIGHTS, "beat": BEATS}  # fmt: skip

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
