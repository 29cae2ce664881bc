"""Which known word a misspelled one is meant to be. No torch."""

from collections.abc import Mapping

# English words (of the 60,000 that are used most, by wordfreq) that are a slip away from a known one, and mean what
# they say.
WORDS = frozenset("""
    airline airlines airplay ari atlanta atlantis automotive baal bach bal beadle beale beatle beatles beech bench
    benny bess bitterly bleach boast bogie bonding bonny bookie boot boots bora breach bulldog bulldogs bundy bunn
    buttery buzzard caine cally canard cannes carb carbs carr casing cast castles cba ceasing chafing champ champs
    charing chime chimes chip chipper chips chirp chomp chopped chump chumps circe clot clots coat coats cocker
    colonial colossus colter conch const copier copper coppers cori cost coster cotter couch countrywide cradling
    crimp cropper crossings dagon defeating deriving dessert dicky dion dishing diving dodgy dougie downton downturn
    drafting dragoons dripping droit drone drooping droppings droves druid druids duchy ducking dumplings elegant
    equation erection expending failing fastball fats feel fel felice felipe felling fiend filed filling flaking
    flamenco flaming flaring flattering fleming fling foaming footballer footballers foothill foothills framing
    frying gant gentle gentry ghosh gian giants gilding glowing goings goldfinch gong goring graceland grant
    grooming groping growling guiding havens headings healing heaping hearing heating heaving herding hiding hiring
    hoarse honeydew hoping horde hordes horne hors horst hose hoses humankind hunchback hunky husk husks jeet
    jest jett jingle juggle kitted laing lange larue laying leading leaking leaning leant leasing least leaving
    leisure ling lino loin loins lugar luna maga magda magna mama mamma massie matching mcknight mediums millard mon
    money moneys mono mowing nigh nightlife nipping norma norman padding pane pappy parting peddling peggy peppy
    place places plan planed planets plank planks plano plans plant plants plate plates poking poole poppy
    poring posting posture quack quirk rabbi rabbis rabin racine racket rackets raging raiding raising raking raping
    raring rating raving ref reliever relievers renting reprieve resolving retrieval retrieve retrieved retrieves
    revolting rickets ridings rinsing risking rna roaring roaster roasters robbins rocker rockers rodin rollins
    ronin rooming root roots rosin roster rosters rotting rowling rubin ruining rusting saeed sailings samara
    sanding sandown sapling sauber sauce sauces sauer saying scaring schooled schooler schoolers schroder scooter
    scooters score scrolling seahorse sealed sean seared searing seated seed seeding seeds seeping seine selling
    semaphore sept setting seung shading shall shaming shank shaping share shaving shelling shift shine shines
    shipping shire shitting shock shoe shone shoo shoot shooter shooters shorn short shove showman showy shrieking
    shrunk shure siding sift sifting sikes sine sipping siting sittings skimming skinning slaying sleet slicing
    slimming slinging slipping slitting slung smell smelling smiling snarl snelling snore snowball snowballs snowden
    sooner sooners sore spaced spacer spacex spade spake spanning spare sparing spate speaking spectra speedway
    spelling spending spice spine spitting spock spoof spooky spool spools spoon spooner spoons spore springing
    squad squads sta staking stalin stall stalling stallone standings staring stations staying stead steadily
    steamship steamships steel steels steen steep steer steers stewed stine stinging stinking stool stoop store
    stranding streep stung subset sudan sung surging sweeping swept swifts swipe swipes swore teen teens terrain
    terrains terran tiber tier tiers tigger timer timers toddy trail trails trait traitor traitors traits tran trans
    tubby tuning turing tuttle twain underrated undertaker underused underwear underwriter universal wafer wafting
    wager wailing waiter waiving waking wale wales walling walter wanderings wanking wanting wasting waver whalers
    whaley whirring whiting whole winder winger winner witter wondering woodard woodlawn woodman woodward woodwind
    wriggling writing wwe
""".split())


def meant(word: str, meanings: Mapping[str, object]) -> str | None:
    """The word among `meanings` that `word` is a misspelling of; None where there is none, or where words of
    different meanings are as near.

    The first letter is hardly ever wrong. Elsewhere the more may be, the longer a word is: up to four letters only
    their order and number, up to seven one letter, and two from eight on."""
    if word in WORDS or len(word) < 3:
        return None
    near = {known: slips(word, known) for known in meanings if known[0] == word[0]}
    near = {known: count for known, count in near.items() if count <= allowed(known)}
    nearest = sorted(known for known, count in near.items() if count == min(near.values()))
    return nearest[0] if len({meanings[known] for known in nearest}) == 1 else None


def allowed(word: str) -> float:
    size = len(word.removesuffix("s"))
    return 0.5 if size < 5 else 1 if size < 8 or word.endswith("ing") else 2


def slips(typed: str, known: str) -> float:
    """How many letters have to be put in, taken out, replaced or swapped with a neighbour to get from one word to
    the other (Damerau's distance, each letter touched once); half where only neighbours are swapped once, or letters
    are there too often or not often enough."""
    if squeezed(typed) == squeezed(known):
        return 0.5
    if abs(len(typed) - len(known)) > 2:
        return 9
    rows = [list(range(len(known) + 1))]
    for i, letter in enumerate(typed, 1):
        row = [i]
        for j, right in enumerate(known, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != right))
            if i > 1 and j > 1 and letter == known[j - 2] and typed[i - 2] == right:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return 0.5 if rows[-1][-1] == 1 and sorted(typed) == sorted(known) else rows[-1][-1]


def squeezed(word: str) -> str:
    """A word without repeated letters: "caaatt" is cat."""
    return "".join(letter for n, letter in enumerate(word) if letter != word[n - 1 : n])
