package nstest

var behindTests, safetyTests, restartTests, faultTests, raceTests, modelTests []entry
