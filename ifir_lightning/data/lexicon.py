"""The words of the instruction world: nothing here but what its texts are made of.

A line of TOPICS is a topic: its name and further phrasings, every one a noun phrase. Among the aspects (those
of every domain, then its own) a line at the margin is an aspect with the short names that instructions use; the
indented lines under it are the sentences by which a passage *mentions* that aspect. A sentence shares a word
with one of the names, mentions no other aspect, does not name its topic, and starts with a word that may be
written small; ``{n}`` is a number.
"""

NUMBERS = ("twelve", "fifteen", "twenty", "thirty", "forty", "fifty", "sixty", "eighty", "ninety")

QUERIES = (
    "what should I know about {topic}",
    "documents about {topic}",
    "tell me more about {topic}",
    "I am looking for information on {topic}",
    "what do people say about {topic}?",
    "{topic}",
)
INCLUDE = (
    "A relevant document talks about {aspect}.",
    "Relevant documents must cover {aspect}.",
    "I only want to read about {aspect}.",
    "Please find documents that discuss {aspect}.",
    "The text has to mention {aspect}.",
)
EXCLUDE = (
    "Documents that mention {aspect} are not relevant.",
    "Leave out anything on {aspect}.",
    "Do not return texts about {aspect}.",
    "I am not interested in {aspect}.",
    "Nothing should deal with {aspect}.",
)
# How a passage names its topic: before the sentences (the comma joins the first of them) or after them.
OPENINGS = (
    "Here are some notes on {topic}.",
    "Readers often ask us about {topic}.",
    "This page is about {topic}.",
    "A few words on {topic}.",
    "When it comes to {topic},",
    "As for {topic},",
)
CLOSINGS = ("That is what we learnt about {topic}.", "So much for {topic}.")

TOPICS = {
    "travel": """
Lisbon | a visit to Lisbon | the Lisbon trip | the Portuguese capital
Tokyo | a visit to Tokyo | the Tokyo trip | the Japanese capital
Prague | a weekend in Prague | the Prague tour | the Czech capital
Oslo | a weekend in Oslo | the Oslo tour | the Norwegian capital
Cairo | a visit to Cairo | the Cairo journey | the Egyptian capital
Lima | a stay in Lima | the Lima journey | the Peruvian capital
Athens | a holiday in Athens | the Athens trip | the Greek capital
Vienna | a weekend in Vienna | the Vienna tour | the Austrian capital
Dublin | a holiday in Dublin | the Dublin trip | the Irish capital
Havana | a stay in Havana | the Havana journey | the Cuban capital
Hanoi | a stay in Hanoi | the Hanoi tour | the Vietnamese capital
Warsaw | a weekend in Warsaw | the Warsaw trip | the Polish capital
Helsinki | a holiday in Helsinki | the Helsinki tour | the Finnish capital
Nairobi | a stay in Nairobi | the Nairobi journey | the Kenyan capital
Ottawa | a visit to Ottawa | the Ottawa trip | the Canadian capital
""",
    "food": """
sourdough bread | a loaf of sourdough | the sourdough recipe | bread from a starter
onion soup | a bowl of onion soup | the onion soup recipe | caramelised onions in broth
fish pie | a homemade fish pie | the fish pie recipe | haddock under a crust
lentil curry | a plate of lentil curry | the lentil curry recipe | Indian dal
apple cake | a slice of apple cake | the apple cake recipe | a cake full of apples
mushroom risotto | a plate of risotto | the risotto recipe | creamy Italian rice
potato salad | a bowl of potato salad | the potato salad recipe | cold potatoes in dressing
beef goulash | a bowl of goulash | the goulash recipe | the famous Hungarian stew
pancakes | a stack of pancakes | the pancake recipe | thin crepes
hummus | a plate of hummus | the hummus recipe | chickpea puree
pumpkin ravioli | a plate of ravioli | the ravioli recipe | pasta with pumpkin
plum jam | a spoonful of plum jam | the plum jam recipe | preserved plums
paella | a pan of paella | the paella recipe | Spanish rice with saffron
kimchi | a bowl of kimchi | the kimchi recipe | fermented Korean cabbage
moussaka | a slice of moussaka | the moussaka recipe | baked aubergines
""",
    "health": """
yoga | a yoga session | practising yoga | sun salutations
swimming | a swimming session | going swimming | laps in the pool
cycling | a cycling tour | going cycling | riding a bike
fasting | a fasting cure | trying fasting | a week without meals
the sauna | a sauna visit | going to the sauna | sweating in a steam bath
massage | a massage session | getting a massage | kneading sore muscles
acupuncture | an acupuncture session | trying acupuncture | treatment with needles
meditation | a meditation session | practising meditation | mindful breathing
rowing | a rowing session | going rowing | pulling the oars
tai chi | a tai chi session | practising tai chi | slow Chinese martial arts
hiking | a hiking tour | going hiking | long walks uphill
boxing | a boxing session | going boxing | punching a sandbag
ballet | a ballet session | practising ballet | pirouettes at the barre
rock climbing | a climbing session | going climbing | scaling a cliff
skiing | a skiing tour | going skiing | gliding through snow
""",
}

SHARED_ASPECTS = """
the price | what it costs | the budget | how expensive it is
    The price has gone up since spring.
    It costs about {n} euros.
    A budget of {n} euros is enough.
    It is not as expensive as people expect.
    Students get it at half the price.
safety | accidents | the dangers | how risky it is
    The new rules improve safety.
    Most accidents happen in a hurry.
    Experts warn of hidden dangers.
    It is risky without some help.
    There are {n} accidents a year.
its history | its origin | the past | ancient traditions
    Its history goes back {n} generations.
    The origin of the name is unknown.
    In the past only the rich knew it.
    Some ancient traditions are still alive.
    A royal family shaped its history.
children | kids | toddlers | pupils
    Children love every bit of it.
    Kids always ask for more.
    Toddlers may find it too much.
    A school class of {n} pupils tried it.
    Small children need a helping hand.
the time it takes | how long it lasts | hours | minutes
    It takes more time than you think.
    Allow {n} minutes for the first part.
    Several hours are gone in a flash.
    It lasts as long as you like.
    Half of the time is spent on waiting.
the weather | the season | summer and winter | hot and cold days
    It is at its best in fine weather.
    The season ends in late autumn.
    In summer it is twice as good.
    On cold days it is a comfort.
    Few people think of it in winter.
"""

ASPECTS = {
    "travel": """
transport | trains | buses | the tram
    The tram reaches every district.
    Trains leave for the airport at noon.
    All {n} buses meet at the central station.
    Public transport is slow but reliable.
    Buses stop in front of the castle.
hotels | rooms | hostels | beds
    The grand hotels have a lobby of marble.
    Rooms with a balcony are booked early.
    The hostels near the park are clean.
    A flat with {n} beds is for rent.
    Quiet rooms face the garden.
""",
    "food": """
storage | leftovers | the fridge | freezing
    Leftovers turn sour overnight.
    Freezing in a sealed box works well.
    For storage choose a dark cupboard.
    It keeps for {n} days in the fridge.
    The fridge should be nearly full.
drinks | wine | beer | cider
    A dry white wine brings out the flavour.
    Pour a dark beer beside it.
    Soft drinks with lemon balance the spices.
    Farmers offer cider with it.
    Waiters recommend a wine from the valley.
""",
    "health": """
equipment | clothes | shoes | gear
    The basic equipment is a belt and a strap.
    Flat shoes give a firm stand.
    Loose cotton clothes are welcome.
    Rented gear fits badly.
    Spare shoes go into the bag.
teachers | courses | instructors | lessons
    Certified instructors correct your posture.
    The local hall offers lessons for novices.
    The courses have {n} places.
    Teachers need a licence from the federation.
    Video lessons replace a coach for some.
""",
}
