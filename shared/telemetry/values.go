package telemetry

// The types in this file are the values of metric labels. They are integers, so that the compiler rejects a text that
// is not in the list. All series with these values start at 0 when a function starts. Otherwise, the first event of a
// pod would be invisible to rate and increase, which only compare the values of one series.

// LoginResult is the result of a sign-in attempt.
type LoginResult int

// The results of a sign-in attempt.
const (
	LoginSuccess     LoginResult = iota
	LoginRefused                 // the name or the password is wrong
	LoginLocked                  // too many failures
	LoginMustChange              // the password is correct and must be changed
	LoginMalformed               // the request is invalid
	LoginUnavailable             // a store or the password hasher did not respond
)

var loginResults = [...]string{LoginSuccess: "success", LoginRefused: "refused", LoginLocked: "locked",
	LoginMustChange: "must_change", LoginMalformed: "malformed", LoginUnavailable: "unavailable"}

// ValidationReason is the reason for the response to a validation of an access token.
type ValidationReason int

// The reasons for the response to a validation.
const (
	ValidationGood ValidationReason = iota
	ValidationMissing
	ValidationMalformed
	ValidationInvalid
	ValidationExpired
	ValidationStale // the session has ended or the account has changed since the token was issued
	ValidationScope // the token lacks a scope
	ValidationUnavailable
)

// validationReasons has the usual response status of each reason.
var validationReasons = [...]struct {
	reason string
	status string
}{
	ValidationGood: {"good", "200"}, ValidationMissing: {"missing", "401"}, ValidationMalformed: {"malformed", "400"},
	ValidationInvalid: {"invalid", "401"}, ValidationExpired: {"expired", "401"}, ValidationStale: {"stale", "401"},
	ValidationScope: {"scope", "403"}, ValidationUnavailable: {"unavailable", "503"},
}

// UploadResult is the protocol and the result of an upload.
type UploadResult int

// The results of an upload in one HTTP request, and the results of a resumable upload (tus).
const (
	HTTPStored   UploadResult = iota
	HTTPReplayed              // an earlier request with the same Idempotency-Key has stored the file
	HTTPRefused               // the response is a 4xx
	HTTPFailed                // the response is a 5xx
	TusStored
	TusTerminated // the client has deleted the upload
)

var uploadResults = [...]struct{ protocol, result string }{
	HTTPStored: {"http", "stored"}, HTTPReplayed: {"http", "replayed"}, HTTPRefused: {"http", "refused"},
	HTTPFailed: {"http", "failed"}, TusStored: {"tus", "stored"}, TusTerminated: {"tus", "terminated"},
}

// RecordOutcome is what the record function did with an event.
type RecordOutcome int

// The outcomes of an event.
const (
	RecordCatalogued  RecordOutcome = iota
	RecordDuplicate                 // the catalog entry existed
	RecordDeleted                   // the file does not exist
	RecordPoison                    // the event is invalid
	RecordUnavailable               // the event source delivers the event again
)

var recordOutcomes = [...]string{RecordCatalogued: "catalogued", RecordDuplicate: "duplicate", RecordDeleted: "deleted",
	RecordPoison: "poison", RecordUnavailable: "unavailable"}

// SweptKind is a kind of work that the sweep function does.
type SweptKind int

// The kinds of work of the sweep function.
const (
	SweptPublished SweptKind = iota // events
	SweptFinished                   // resumable uploads that became files
	SweptDiscarded                  // uploads
	SweptDeleted                    // interrupted deletions
	SweptClaim                      // expired idempotency keys
	SweptFailed                     // operations that failed
)

var sweptKinds = [...]string{SweptPublished: "published", SweptFinished: "finished", SweptDiscarded: "discarded",
	SweptDeleted: "deleted", SweptClaim: "claim", SweptFailed: "failed"}

// The values of the label outcome of strongroom_publishes_total.
const (
	publishConfirmed = "confirmed"
	publishFailed    = "failed"
)

// start creates the series that the given function can count, with the value 0. Functions with other names, such as the
// functions of tests, have no initial series.
//
// Requests have no initial series, because their routes, methods and codes would be hundreds of series, most of which
// stay at 0. The recording rules in deploy/monitoring count the first value of a new series.
func (m *metrics) start(function string) {
	switch function {
	case "login":
		for _, result := range loginResults {
			m.logins.WithLabelValues(result)
		}
		m.hashWait.WithLabelValues()
	case "accounts":
		m.hashWait.WithLabelValues()
	case "validate":
		for _, v := range validationReasons {
			m.validations.WithLabelValues(v.status, v.reason)
		}
	case "upload":
		for _, u := range uploadResults {
			m.uploadBytes.WithLabelValues(u.protocol)
			m.uploadDuration.WithLabelValues(u.protocol, u.result)
		}
		m.startPublishing()
	case "record":
		for _, outcome := range recordOutcomes {
			m.records.WithLabelValues(outcome)
		}
		m.recordDelay.WithLabelValues()
	case "sweep":
		for _, kind := range sweptKinds {
			m.swept.WithLabelValues(kind)
		}
		m.startPublishing()
	}
}

func (m *metrics) startPublishing() {
	for _, outcome := range []string{publishConfirmed, publishFailed} {
		m.publishes.WithLabelValues(outcome)
	}
}
