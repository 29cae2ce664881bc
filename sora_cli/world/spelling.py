"""Which known word a misspelled one is meant to be. No torch."""

from collections.abc import Mapping

# English words (of the 60,000 that are used most, by wordfreq) that are a slip away from a known one, and mean what
# they say.
WORDS = frozenset("""
    airline airlines airplay alden align aligns aline allen amiens ari atlanta atlantis automotive baal bach backlit
    bacteria bacterial bal bastian bavarian beadle beale beatle beatles beech bench benny bess bitterly bleach boast
    bobbin bogie bombing bonding bonny bookie boot boots bora breach buddies budge buggies bulldog bulldogs bundy bungie
    bunn buttery buzzard caine cally came cameo cameos canard cannes canter carb carbs carmel carr casing cast castles
    catered cba ceasing censored censured chafing champ champs charing chime chimes chip chipper chips chirp chomp
    chopped chump chumps circe clot clots coat coats cocker colonial colossus colter conceit concept concern concerto
    conch const convert copier copper coppers cori cost coster cotter couch countered countrywide cradling crimp cropper
    crossings dagon defeating der deriving dessert dicky dion dishing diving dodgy dose dougie downton downturn drafting
    drago dragoon dragoons dripping droit drone drooping droppings droves druid druids duchy ducking dumplings dusky
    elegant equation erection expending failing fastball fats feel fel felice felipe felling fiend filed filling flaking
    flamenco flaming flapping flaring flattering fleming fling flopping foaming footballer footballers foothill
    foothills framing frying gant gees gentle gentry ghosh gian giants gilding glowing goings goldfinch gong goode
    goring graceland grant grooming groping growling guiding gul havens headings healing heaping hearing heating heaving
    herding hiding hiring hither hoarse honeydew hoping horde hordes horne hors horst hose hoses humankind hunchback
    hunky husk husks jeet jest jett jingle juggle kala kitted kuala laing lange larry larue laying leading leaking
    leaning leant leasing least leaving leisure ling lino loin loins loner lordy loser lover lowe lowers lowery lowes
    lowry lugar luna macao macau maga magda magna mama mamma marian martial martin martina martins massie matching mccaw
    mcknight meddle mediums medway meuse midday millard mon money moneys mono moore moores moos mopped morose mose moses
    mosses mousse mowed mowing muddle muse muses nigh nightlife nipping norma norman padding pane pappy parapet parrott
    parting peddling peggy peppy place places plan planed planets plank planks plano plans plant plants plate plates
    poking poole poppy porcine poring posting posture propose proposes purpose purposes quack quirk rabbi rabbis rabin
    racine racket rackets raging raiding raising raking raping raring rating raving ref reiner reliever relievers
    reminder reminders render renders renting reprieve resolving retrieval retrieve retrieved retrieves revolting
    rickets ridings rinsing risking rna roaring roaster roasters robbins rocker rockers roden rodin rollins ronin
    rooming root roots ros rosin ross roster rosters rotting rowling rubin ruining rusting saeed sage sailings samara
    sanding sandown sapling sark sauber sauce sauces sauer sawn saying scaring schooled schooler schoolers schroder
    scooter scooters score scrolling seahorse sealed sean seared searing seated seed seeding seeds seep seeping seeps
    seine selling semaphore sept setting seung shack shacks shading shaky shall shaming shank shanks shaping shar shard
    shards share shares shari sharkey sharp sharps shaving sheen sheer sheet sheets shelling shep shift shine shines
    shipping shire shirk shitting shock shoe shone shoo shoot shooter shooters shorn short shove showman showy shrieking
    shrunk shure siding sift sifting sikes sine sipping siting sittings skimming skinning slaying sleet slicing slimming
    slinging slipping slitting slung smell smelling smiling snark snarky snarl snelling snore snowball snowballs snowden
    sooner sooners sore spaced spacer spacex spade spake spanning spare sparing spark sparks sparky spate speaking
    spectra speedway spelling spending spice spine spitting spock spoof spooky spool spools spoon spooner spoons spore
    springing squad squads squire squires squirted sta stade staged stagg stake staking stale stalin stall stalling
    stallone standings stare staring stark starks state stations stave staying stead steadily steamship steamships steel
    steels steen steep steer steers stewed stine stinging stinking stool stoop store stranding streep stung subset sudan
    sung surging sweep sweeping sweeps swept swifts swipe swipes swore teen teens terrain terrains terran tiber tier
    tiers tigger timer timers toddy track tracks trail trails trait traitor traitors traits tran trans trick tricks
    truce trunk trunks tubby tuck tucks tuning turing tuttle twain underrated undertaker underused underwear underwriter
    universal wafer wafting wager wailing waiter waiving waking wale wales walling walter wanderings wanking wanting
    wasting waver whalers whaley whirring whiting whole winder winger winner witter wondering woodard woodlawn woodman
    woodward woodwind wriggling writing wwe
""".split())


def correct_spelling(word: str, meanings: Mapping[str, object]) -> str | None:
    """The word among `meanings` that `word` is a misspelling of; None where there is none, or where words of
    different meanings are as near.

    The first letter is hardly ever wrong. Elsewhere the more may be, the longer a word is: up to four letters only
    their order and number, up to seven one letter, and two from eight on."""
    if word in WORDS or len(word) < 3:
        return None
    near = {candidate: slips(word, candidate) for candidate in meanings if candidate[0] == word[0]}
    near = {candidate: count for candidate, count in near.items() if count <= allowed(candidate)}
    nearest = sorted(candidate for candidate, count in near.items() if count == min(near.values()))
    return nearest[0] if len({meanings[candidate] for candidate in nearest}) == 1 else None


def allowed(word: str) -> float:
    size = len(word.removesuffix("s"))
    return 0.5 if size < 5 else 1 if size < 8 or word.endswith("ing") else 2


def slips(typed: str, candidate: str) -> float:
    """How many letters have to be put in, taken out, replaced or swapped with a neighbour to get from one word to
    the other (Damerau's distance, each letter touched once); half where only neighbours are swapped once, or letters
    are there too often or not often enough."""
    if squeezed(typed) == squeezed(candidate):
        return 0.5
    if abs(len(typed) - len(candidate)) > 2:
        return 9
    rows = [list(range(len(candidate) + 1))]
    for i, letter in enumerate(typed, 1):
        row = [i]
        for j, right in enumerate(candidate, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != right))
            if i > 1 and j > 1 and letter == candidate[j - 2] and typed[i - 2] == right:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return 0.5 if rows[-1][-1] == 1 and sorted(typed) == sorted(candidate) else rows[-1][-1]


def squeezed(word: str) -> str:
    """A word without repeated letters: "caaatt" is cat."""
    return "".join(letter for n, letter in enumerate(word) if letter != word[n - 1 : n])
