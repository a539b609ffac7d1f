package certstore

import "context"

// Callers counts the attempt numbers that were raised for a main account, by who
// called; "" stands for those that name nobody. It reads every number of the
// store: it is asked seldom, after a ledger was lost or made.
func (s *KeyStore) Callers(ctx context.Context, main string) (map[string]int, error) {
	ids, err := s.IDs()
	if err != nil {
		return nil, err
	}
	known := map[string]int{}
	for _, id := range ids {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		numbers, err := s.numbers(Ref{ID: id})
		if err != nil {
			return nil, err
		}
		for _, n := range numbers {
			raised, err := s.readNumber(Ref{ID: id}, n)
			if err != nil {
				return nil, err
			}
			if raised.Main == main {
				known[raised.Caller]++
			}
		}
	}
	return known, nil
}
